// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "control_plane.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

namespace horovod_partial {
namespace glue {
namespace {

using Clock = ControlPlane::Clock;

// Children of a rank in the tree. Flat, because a hop costs a wake-up.
constexpr int kFanOut = 8;
constexpr auto kConnectTime = std::chrono::seconds(15);
constexpr auto kAnswerTime = std::chrono::seconds(3);
// Bytes. No host has so many addresses.
constexpr size_t kMostOfAddress = 1 << 20;
// A host that has gone silently is noticed after this. (A process that stands
// still is not gone: its kernel answers.)
constexpr int kSilenceSeconds = 30;

class Socket {
public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  Socket(Socket&& other) : fd_(other.Release()) {}
  Socket& operator=(Socket&& other) {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket() {
    if (fd_ >= 0) {
      close(fd_);
    }
  }
  int fd() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  int Release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

private:
  int fd_;
};

int Milliseconds(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(
                        deadline - Clock::now())
                        .count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30));
}

bool Ready(int fd, short what, Clock::time_point deadline) {
  pollfd entry{fd, what, 0};
  while (true) {
    const int ready = poll(&entry, 1, Milliseconds(deadline));
    if (ready >= 0 || errno != EINTR) {
      return ready > 0;
    }
  }
}

void Configure(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
#ifdef TCP_KEEPIDLE
  const int idle = kSilenceSeconds / 3, interval = kSilenceSeconds / 6,
            probes = 4;
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
#endif
#ifdef TCP_USER_TIMEOUT
  const unsigned timeout = 1000 * kSilenceSeconds;
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
#endif
}

// Has `some(at, left)`, which is send or recv, move bytes until all have gone.
template <typename Byte, typename F> bool All(Byte* at, size_t bytes, F some) {
  while (bytes > 0) {
    const ssize_t moved = some(at, bytes);
    if (moved < 0 && errno == EINTR) {
      continue;
    }
    if (moved <= 0) {
      return false;
    }
    at += moved;
    bytes -= moved;
  }
  return true;
}

bool SendAll(int fd, const void* data, size_t bytes) {
  return All(static_cast<const char*>(data), bytes,
             [fd](const char* at, size_t left) {
               return send(fd, at, left, MSG_NOSIGNAL);
             });
}

bool ReceiveAll(int fd, void* data, size_t bytes) {
  return All(static_cast<char*>(data), bytes, [fd](char* at, size_t left) {
    return recv(fd, at, left, 0);
  });
}

// The same from a stranger, who may stop in the middle.
bool ReceiveBefore(int fd, void* data, size_t bytes,
                   Clock::time_point deadline) {
  return All(static_cast<char*>(data), bytes,
             [fd, deadline](char* at, size_t left) -> ssize_t {
               while (Ready(fd, POLLIN, deadline)) {
                 const ssize_t received = recv(fd, at, left, MSG_DONTWAIT);
                 if (received >= 0 || errno != EAGAIN) {
                   return received;
                 }
               }
               return 0; // too late: as if it had ended
             });
}

// What a connection begins with: proof that both ends mean each other.
struct Hello {
  uint64_t token;
  uint64_t rank;
};
constexpr char kYes = 1; // the answer

struct Address {
  uint64_t token = 0;
  int port = 0;
  std::string host;
  std::vector<std::string> addresses;

  std::string Serialize() const {
    std::ostringstream out;
    out << token << ' ' << port << ' ' << host;
    for (const auto& address : addresses) {
      out << ' ' << address;
    }
    return out.str();
  }
  // False for what no rank says.
  bool Parse(const std::string& text) {
    if (text.size() > kMostOfAddress) {
      return false;
    }
    std::istringstream in(text);
    if (!(in >> token >> port >> host) || port < 1 || port > 0xffff) {
      return false;
    }
    for (std::string address; in >> address;) {
      addresses.push_back(address);
    }
    return true;
  }
};

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name[0] != '\0' ? name : "unknown";
}

// Addresses under which others may reach this host: of the interfaces that
// HOROVOD_GLOO_IFACE names, else of all but loopback.
std::vector<std::string> OwnAddresses() {
  const char* wanted = std::getenv("HOROVOD_GLOO_IFACE");
  std::vector<std::string> addresses;
  ifaddrs* interfaces = nullptr;
  if (getifaddrs(&interfaces) != 0) {
    return addresses;
  }
  for (auto* i = interfaces; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || (i->ifa_flags & IFF_UP) == 0 ||
        (wanted != nullptr ? std::strcmp(i->ifa_name, wanted) != 0
                           : (i->ifa_flags & IFF_LOOPBACK) != 0)) {
      continue;
    }
    const int family = i->ifa_addr->sa_family;
    char text[NI_MAXHOST];
    if ((family == AF_INET || family == AF_INET6) &&
        getnameinfo(i->ifa_addr,
                    family == AF_INET ? sizeof(sockaddr_in)
                                      : sizeof(sockaddr_in6),
                    text, sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0) {
      addresses.push_back(text);
    }
  }
  freeifaddrs(interfaces);
  return addresses;
}

Socket Listen(int* port) {
  for (int family : {AF_INET6, AF_INET}) {
    Socket listener(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!listener.ok()) {
      continue;
    }
    sockaddr_storage any{};
    any.ss_family = family;
    socklen_t length =
        family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    if (family == AF_INET6) {
      const int off = 0;
      setsockopt(listener.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    }
    auto* address = reinterpret_cast<sockaddr*>(&any);
    if (bind(listener.fd(), address, length) == 0 &&
        listen(listener.fd(), kFanOut) == 0 &&
        getsockname(listener.fd(), address, &length) == 0) {
      *port = ntohs(family == AF_INET6
                        ? reinterpret_cast<sockaddr_in6*>(&any)->sin6_port
                        : reinterpret_cast<sockaddr_in*>(&any)->sin_port);
      return listener;
    }
  }
  return Socket();
}

Socket ConnectTo(const std::string& address, int port,
                 Clock::time_point deadline) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints,
                  &found) != 0) {
    return Socket();
  }
  Socket made(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  bool ok = made.ok();
  if (ok) {
    fcntl(made.fd(), F_SETFL, O_NONBLOCK);
    ok = connect(made.fd(), found->ai_addr, found->ai_addrlen) == 0;
    if (!ok && errno == EINPROGRESS && Ready(made.fd(), POLLOUT, deadline)) {
      int error = 0;
      socklen_t length = sizeof(error);
      getsockopt(made.fd(), SOL_SOCKET, SO_ERROR, &error, &length);
      ok = error == 0;
    }
    fcntl(made.fd(), F_SETFL, 0);
  }
  freeaddrinfo(found);
  return ok ? std::move(made) : Socket();
}

uint64_t RandomToken() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

} // namespace

struct ControlPlane::Frame {
  // The first three are of a cycle and nothing follows them; the others are of
  // an exchange.
  enum Type : uint32_t { kWake, kAlong, kWithNews, kUp, kDown };
  uint32_t type;
  uint32_t bytes; // that follow
  uint64_t number; // of the cycle or the exchange

  bool OfCycle() const { return type <= kWithNews && bytes == 0; }
};

std::unique_ptr<ControlPlane> ControlPlane::Connect(int rank, int size,
                                                    bool willing,
                                                    const Gather& gather,
                                                    std::string* failure) {
  Address own;
  Socket listener;
  if (willing) {
    listener = Listen(&own.port);
    own.token = RandomToken();
    own.host = HostName();
    own.addresses = OwnAddresses();
  }
  const std::string said = listener.ok() ? own.Serialize() : "";
  const auto addresses = gather(said);
  for (int r = 0; r < size; ++r) {
    if (addresses[r].empty()) {
      *failure = "rank " + std::to_string(r) + " has it switched off";
      return nullptr;
    }
  }
  std::unique_ptr<ControlPlane> plane(new ControlPlane(rank, size));
  std::string problem;
  if (addresses[rank] == said) {
    plane->ConnectPeers(addresses, own.token, listener.fd(), &problem);
  } else {
    problem = "the address of rank " + std::to_string(rank) + " has come damaged";
  }
  listener = Socket(); // whoever still tries to connect need not wait
  for (const auto& theirs : gather(problem)) {
    if (!theirs.empty()) {
      *failure = theirs;
      return nullptr;
    }
  }
  return plane;
}

ControlPlane::ControlPlane(int rank, int size) : rank_(rank), size_(size) {}

ControlPlane::~ControlPlane() {
  for (const auto& peer : peers_) {
    close(peer.fd);
  }
}

bool ControlPlane::ConnectPeers(const std::vector<std::string>& addresses,
                                uint64_t token, int listener,
                                std::string* failure) {
  const auto deadline = Clock::now() + kConnectTime;
  if (rank_ > 0) {
    const int parent = (rank_ - 1) / kFanOut;
    Address theirs;
    if (!theirs.Parse(addresses[parent])) {
      *failure =
          "the address of rank " + std::to_string(parent) + " has come damaged";
      return false;
    }
    auto candidates = theirs.addresses;
    if (theirs.host == HostName()) {
      candidates.insert(candidates.begin(), "127.0.0.1");
    }
    const Hello hello{theirs.token, static_cast<uint64_t>(rank_)};
    for (const auto& address : candidates) {
      if (Clock::now() >= deadline) {
        break;
      }
      Socket made = ConnectTo(address, theirs.port,
                              std::min(deadline, Clock::now() + kAnswerTime));
      char yes = 0;
      // The parent answers when it has a parent itself.
      if (made.ok() && SendAll(made.fd(), &hello, sizeof(hello)) &&
          ReceiveBefore(made.fd(), &yes, 1, deadline) && yes == kYes) {
        Configure(made.fd());
        peers_.push_back({parent, made.Release()});
        break;
      }
    }
    if (peers_.empty()) {
      *failure = "rank " + std::to_string(rank_) + " cannot connect to rank " +
                 std::to_string(parent) + " on " + theirs.host;
      return false;
    }
  }
  std::set<uint64_t> missing; // children
  for (int child = rank_ * kFanOut + 1;
       child <= rank_ * kFanOut + kFanOut && child < size_; ++child) {
    missing.insert(child);
  }
  while (!missing.empty()) {
    // Strangers must not hold it up for longer.
    if (Clock::now() >= deadline || !Ready(listener, POLLIN, deadline)) {
      *failure = "rank " + std::to_string(rank_) + " waits for " +
                 std::to_string(missing.size()) + " connections";
      return false;
    }
    Socket made(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    Hello hello{};
    if (made.ok() &&
        ReceiveBefore(made.fd(), &hello, sizeof(hello),
                      std::min(deadline, Clock::now() + kAnswerTime)) &&
        hello.token == token && missing.count(hello.rank) > 0 &&
        SendAll(made.fd(), &kYes, 1)) {
      Configure(made.fd());
      peers_.push_back({static_cast<int>(hello.rank), made.Release()});
      missing.erase(hello.rank);
    }
  }
  // Children by rank, so that sums do not depend on who connects first.
  std::sort(peers_.begin() + FirstChild(), peers_.end(),
            [](const Peer& a, const Peer& b) { return a.rank < b.rank; });
  return true;
}

void ControlPlane::Lost(const Peer& peer, const std::string& why) const {
  throw std::runtime_error("The connection to rank " +
                           std::to_string(peer.rank) + " is lost: " + why);
}

void ControlPlane::Send(const Peer& peer, uint32_t type, const void* body,
                        size_t bytes) {
  const bool of_exchange = type == Frame::kUp || type == Frame::kDown;
  Frame frame{type, static_cast<uint32_t>(bytes),
              of_exchange ? exchange_ : cycle_};
  iovec parts[] = {{&frame, sizeof(frame)}, {const_cast<void*>(body), bytes}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = bytes > 0 ? 2 : 1;
  // One call where it fits.
  ssize_t sent;
  do {
    sent = sendmsg(peer.fd, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  const auto head = static_cast<ssize_t>(sizeof(frame));
  const size_t of_head = std::clamp<ssize_t>(sent, 0, head);
  const size_t of_body = std::max<ssize_t>(sent - head, 0);
  if (sent < 0 ||
      !SendAll(peer.fd, reinterpret_cast<char*>(&frame) + of_head,
               sizeof(frame) - of_head) ||
      !SendAll(peer.fd, static_cast<const char*>(body) + of_body,
               bytes - of_body)) {
    Lost(peer, std::strerror(errno));
  }
}

void ControlPlane::Forward(const Peer* from) {
  wanted_ = true;
  for (const auto& peer : peers_) {
    if (&peer != from) {
      Send(peer, Frame::kWake, nullptr, 0);
    }
  }
}

void ControlPlane::Gathered() {
  Coming least = coming_;
  Coming most = coming_;
  for (size_t p = FirstChild(); p < peers_.size(); ++p) {
    least = std::min(least, peers_[p].coming);
    most = std::max(most, peers_[p].coming);
  }
  if (wanted_ || least == kNotYet || most <= said_) {
    return;
  }
  said_ = most;
  if (rank_ > 0) {
    Send(peers_[0], most == kWithNews ? Frame::kWithNews : Frame::kAlong,
         nullptr, 0);
  } else if (most == kWithNews) {
    Forward(nullptr);
  }
}

void ControlPlane::ComeAlong(bool news) {
  coming_ = std::max(coming_, news ? kWithNews : kAlong);
  Gathered();
}

void ControlPlane::Wake() {
  if (!wanted_) {
    Forward(nullptr);
  }
}

void ControlPlane::BeginCycle() {
  ++cycle_;
  wanted_ = false;
  coming_ = said_ = kNotYet;
  for (auto& peer : peers_) {
    peer.coming = kNotYet;
  }
}

bool ControlPlane::Wait(int fd, Clock::time_point deadline) {
  std::vector<pollfd>& entries = entries_;
  entries.assign(1, {fd, POLLIN, 0});
  for (const auto& peer : peers_) {
    entries.push_back({peer.fd, POLLIN | POLLRDHUP, 0});
  }
  while (!wanted_) {
    const int ready =
        poll(entries.data(), entries.size(), Milliseconds(deadline));
    if (ready < 0 && errno != EINTR) {
      throw std::runtime_error(std::string("poll: ") + std::strerror(errno));
    }
    if (ready == 0) {
      return false;
    }
    for (size_t i = 0; ready > 0 && i < peers_.size() && !wanted_; ++i) {
      if (entries[i + 1].revents == 0) {
        continue;
      }
      Peer& peer = peers_[i];
      Frame frame{};
      ssize_t seen;
      do {
        seen = recv(peer.fd, &frame, sizeof(frame), MSG_PEEK);
      } while (seen < 0 && errno == EINTR);
      if (seen <= 0) {
        Lost(peer, seen == 0 ? "it was closed" : std::strerror(errno));
      }
      if (seen < static_cast<ssize_t>(sizeof(frame))) {
        if ((entries[i + 1].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0) {
          Lost(peer, "it was closed in the middle of a message");
        }
        continue; // the rest is on its way
      }
      if (frame.OfCycle()) {
        ReceiveAll(peer.fd, &frame, sizeof(frame));
        if (frame.number < cycle_) {
          continue;
        }
        if (frame.type == Frame::kWake) {
          Forward(&peer);
        } else {
          peer.coming = frame.type == Frame::kWithNews ? kWithNews : kAlong;
          Gathered();
        }
      } else {
        // It is in the next cycle already; Combine reads what it says.
        Forward(&peer);
      }
    }
    if (!wanted_ && ready > 0 && entries[0].revents != 0) {
      return false;
    }
  }
  return true;
}

void ControlPlane::Receive(const Peer& peer, uint32_t type, void* body,
                           size_t bytes) {
  Frame frame{};
  do {
    if (!ReceiveAll(peer.fd, &frame, sizeof(frame))) {
      Lost(peer, errno != 0 ? std::strerror(errno) : "it was closed");
    }
  } while (frame.OfCycle());
  if (frame.type != type || frame.bytes != bytes ||
      frame.number != exchange_) {
    Lost(peer, "it is out of step (message " + std::to_string(frame.type) +
                   " of " + std::to_string(frame.bytes) + " bytes in exchange " +
                   std::to_string(frame.number) + ", expected " +
                   std::to_string(bytes) + " bytes in " +
                   std::to_string(exchange_) + ")");
  }
  if (!ReceiveAll(peer.fd, body, bytes)) {
    Lost(peer, errno != 0 ? std::strerror(errno) : "it was closed");
  }
}

template <typename F>
void ControlPlane::Exchange(void* data, size_t bytes, F add) {
  received_.resize(std::max(received_.size(), bytes / sizeof(long long) + 1));
  for (size_t p = FirstChild(); p < peers_.size(); ++p) {
    Receive(peers_[p], Frame::kUp, received_.data(), bytes);
    add();
  }
  if (rank_ > 0) {
    Send(peers_[0], Frame::kUp, data, bytes);
    Receive(peers_[0], Frame::kDown, data, bytes);
  }
  for (size_t p = FirstChild(); p < peers_.size(); ++p) {
    Send(peers_[p], Frame::kDown, data, bytes);
  }
  ++exchange_;
  if (bytes > kMostBytes) {
    // A registration, which is rare and may be large.
    std::vector<long long>().swap(received_);
  }
}

void ControlPlane::Combine(long long* words, size_t count, Op op) {
  Exchange(words, count * sizeof(long long), [&] {
    for (size_t i = 0; i < count; ++i) {
      words[i] = op == Op::kAnd ? words[i] & received_[i]
                                : words[i] | received_[i];
    }
  });
}

void ControlPlane::Reduce(void* data, size_t elements, size_t element_bytes,
                          Reduction reduction) {
  Exchange(data, elements * element_bytes, [&] {
    reduction(data, data, received_.data(), elements);
  });
}

bool ControlPlane::IsBelow(int rank, int ancestor) const {
  while (rank > ancestor) {
    rank = (rank - 1) / kFanOut;
  }
  return rank == ancestor;
}

void ControlPlane::Broadcast(void* data, size_t bytes, int root) {
  // Up from the root to the top, then down to all that have not had it.
  const Peer* from = nullptr;
  for (size_t p = FirstChild(); p < peers_.size() && root != rank_; ++p) {
    if (IsBelow(root, peers_[p].rank)) {
      from = &peers_[p];
    }
  }
  if (from != nullptr) {
    Receive(*from, Frame::kUp, data, bytes);
  }
  if (rank_ > 0) {
    if (from != nullptr || root == rank_) {
      Send(peers_[0], Frame::kUp, data, bytes);
    } else {
      Receive(peers_[0], Frame::kDown, data, bytes);
    }
  }
  for (size_t p = FirstChild(); p < peers_.size(); ++p) {
    if (&peers_[p] != from) {
      Send(peers_[p], Frame::kDown, data, bytes);
    }
  }
  ++exchange_;
}

} // namespace glue
} // namespace horovod_partial
