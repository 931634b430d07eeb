// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "application.h"
#include "horovod_partial/csrc/glue/control_plane.h"
#include "wire.h"

namespace {

using horovod_partial::glue::ControlPlane;
using Random = std::mt19937_64;

constexpr int kExchanges = 6;
constexpr size_t kWords = 5;

// csrc/glue/control_plane.cc
struct Frame {
  enum Type : uint32_t { kWake, kAlong, kWithNews, kUp, kDown };
  uint32_t type;
  uint32_t bytes;
  uint64_t number;
};
struct Hello {
  uint64_t token;
  uint64_t rank;
};

sockaddr_in Local(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

// What an honest peer says in some exchanges, and what becomes of that.
std::string DamagedFrames(Frame::Type type, Random& random) {
  std::string bytes;
  auto add = [&bytes](const void* data, size_t size) {
    bytes.append(static_cast<const char*>(data), size);
  };
  for (uint64_t exchange = 0; exchange < kExchanges; ++exchange) {
    if (random() % 2 == 0) {
      const auto of_cycle = static_cast<Frame::Type>(random() % Frame::kUp);
      const Frame wake{of_cycle, 0, exchange};
      add(&wake, sizeof(wake));
    }
    const Frame frame{type, kWords * sizeof(long long), exchange};
    const std::vector<long long> words(kWords, -1);
    add(&frame, sizeof(frame));
    add(words.data(), kWords * sizeof(long long));
  }
  if (random() % 2 == 0) {
    Damage(bytes, random);
  }
  bytes.resize(random() % (bytes.size() + 1));
  return bytes;
}

// Damage that may also change a message's length.
void DamageOrCut(std::string& bytes, Random& random) {
  if (random() % 4 == 0) {
    bytes.resize(random() % bytes.size());
  } else {
    Damage(bytes, random);
  }
}

// The peer: of two ranks, either the parent, which listens, or the child. It
// may do harm before there is a connection.
class Peer {
public:
  enum Harm {
    kNone,
    kAddresses, // on the way
    kHello,     // or the answer to it; afterwards it is honest
    kHalfHello  // the same, by one who stays there
  };

  Peer(bool parent, uint64_t seed, Harm harm)
      : parent_(parent), harm_(harm), random_(seed) {
    if (parent_) {
      listener_ = socket(AF_INET, SOCK_STREAM, 0);
      auto address = Local(0);
      socklen_t length = sizeof(address);
      auto* any = reinterpret_cast<sockaddr*>(&address);
      CHECK(bind(listener_, any, length) == 0 && listen(listener_, 1) == 0 &&
            getsockname(listener_, any, &length) == 0);
      port_ = ntohs(address.sin_port);
    }
  }
  ~Peer() {
    if (parent_) {
      shutdown(listener_, SHUT_RDWR); // nobody comes any more
    }
    thread_.join();
    if (parent_) {
      close(listener_);
    }
  }

  // ControlPlane::Gather of the honest rank: first addresses, then problems.
  std::vector<std::string> Gather(const std::string& message) {
    if (thread_.joinable()) {
      CHECK(message.empty() || harm_ != kNone);
      return {"", message};
    }
    uint64_t token;
    int port;
    std::string host;
    std::istringstream(message) >> token >> port >> host;
    std::string own = "7 " + std::to_string(port_) + " " + host;
    std::string theirs = message;
    if (harm_ == kAddresses && random_() % 2 == 0) {
      DamageOrCut(theirs, random_);
      must_fail_ = theirs != message;
      may_fail_ = must_fail_.load();
    } else if (harm_ == kAddresses && random_() % 4 == 0) {
      for (int i = 0; i < 1 << 19; ++i) {
        own += " ?";
      }
      may_fail_ = must_fail_ = parent_;
    } else if (harm_ == kAddresses) {
      DamageOrCut(own, random_);
      // Nobody looks for a child by its address. But an empty one has a meaning.
      may_fail_ = parent_ || own.empty();
    }
    thread_ = std::thread([this, token, port] { Run(token, port); });
    return parent_ ? std::vector<std::string>{own, theirs}
                   : std::vector<std::string>{theirs, own};
  }

  bool may_fail() const { return may_fail_; }
  bool must_fail() const { return must_fail_; }

private:
  void Run(uint64_t token, int port) {
    const int fd = parent_ ? Accept() : Connect(token, port);
    if (fd < 0) {
      CHECK(may_fail_);
      return;
    }
    const std::string bytes =
        DamagedFrames(parent_ ? Frame::kDown : Frame::kUp, random_);
    send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    AwaitEnd(fd);
  }

  int Accept() {
    while (true) {
      const int fd = accept(listener_, nullptr, nullptr);
      if (fd < 0) {
        return -1;
      }
      Hello hello;
      const bool right =
          recv(fd, &hello, sizeof(hello), MSG_WAITALL) == sizeof(hello) &&
          hello.token == 7 && hello.rank == 1;
      CHECK(right || may_fail_);
      std::string answer(1, 1);
      if (harm_ == kHello) {
        DamageOrCut(answer, random_);
        may_fail_ = must_fail_ = answer != std::string(1, 1);
      }
      if (right) {
        send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
      }
      if (right && !must_fail_) {
        return fd;
      }
      shutdown(fd, SHUT_WR);
      AwaitEnd(fd);
    }
  }

  int Connect(uint64_t token, int port) {
    const Hello hello{token, 1};
    const std::string honest(reinterpret_cast<const char*>(&hello),
                             sizeof(hello));
    int stranger = -1;
    if (harm_ == kHello || harm_ == kHalfHello) {
      std::string bytes = honest;
      if (harm_ == kHalfHello) {
        bytes.resize(bytes.size() / 2);
      } else {
        DamageOrCut(bytes, random_);
      }
      stranger = Greet(port, bytes);
      CHECK(stranger >= 0);
      if (harm_ == kHello) {
        if (bytes.size() < honest.size()) {
          shutdown(stranger, SHUT_WR);
        }
        const bool accepted = Answered(stranger);
        CHECK(accepted == (bytes == honest));
        if (accepted) {
          return stranger;
        }
      }
    }
    const int fd = Greet(port, honest);
    const bool accepted = fd >= 0 && Answered(fd);
    if (stranger >= 0) {
      close(stranger);
    }
    if (fd >= 0 && !accepted) {
      close(fd);
    }
    return accepted ? fd : -1;
  }

  static int Greet(int port, const std::string& hello) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const auto address = Local(port);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&address),
                sizeof(address)) != 0 ||
        send(fd, hello.data(), hello.size(), MSG_NOSIGNAL) !=
            static_cast<ssize_t>(hello.size())) {
      close(fd);
      return -1;
    }
    return fd;
  }

  static bool Answered(int fd) {
    char yes = 0;
    return recv(fd, &yes, 1, 0) == 1 && yes == 1;
  }

  // Until the other end has gone: a reset would take from it what was sent.
  static void AwaitEnd(int fd) {
    char rest[256];
    while (recv(fd, rest, sizeof(rest), 0) > 0) {
    }
    close(fd);
  }

  const bool parent_;
  const Harm harm_;
  Random random_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> may_fail_ = false; // to connect
  std::atomic<bool> must_fail_ = false;
  std::thread thread_;
};

} // namespace

void FuzzFrames(uint64_t seed, int count) {
  int exchanges = 0;
  int failures = 0;
  int refused = 0;
  int never[2]; // becomes readable
  CHECK(pipe(never) == 0);
  for (int i = 0; i < count; ++i) {
    const bool parent = i % 2 == 0;
    const Peer::Harm harms[] = {Peer::kNone, Peer::kAddresses, Peer::kNone,
                                Peer::kHello};
    Peer peer(parent, seed + i, i == 1 ? Peer::kHalfHello : harms[i / 2 % 4]);
    std::string failure;
    auto plane = ControlPlane::Connect(
        parent ? 1 : 0, 2, true,
        [&peer](const std::string& message) { return peer.Gather(message); },
        &failure);
    CHECK(plane ? !peer.must_fail() : peer.may_fail() && !failure.empty());
    if (!plane) {
      ++refused;
      continue;
    }
    try {
      for (int e = 0; e < kExchanges; ++e) {
        plane->Wait(never[0], ControlPlane::Clock::now() +
                                  std::chrono::seconds(10));
        plane->BeginCycle();
        std::vector<long long> words(kWords, -1);
        switch (e % 3) {
        case 0:
          plane->Combine(words.data(), words.size(), ControlPlane::Op::kAnd);
          break;
        case 1:
          plane->Reduce(words.data(), words.size(), sizeof(long long),
                        [](void* result, const void* a, const void* b,
                           size_t elements) {
                          for (size_t i = 0; i < elements; ++i) {
                            static_cast<unsigned long long*>(result)[i] =
                                static_cast<const unsigned long long*>(a)[i] +
                                static_cast<const unsigned long long*>(b)[i];
                          }
                        });
          break;
        default:
          plane->Broadcast(words.data(), words.size() * sizeof(long long),
                           parent ? 0 : 1);
        }
        ++exchanges;
      }
    } catch (const std::bad_alloc&) {
      CHECK(!"an allocation that damage made too large");
    } catch (const std::length_error&) {
      CHECK(!"an allocation that damage made too large");
    } catch (const std::exception&) {
      ++failures;
    }
  }
  close(never[0]);
  close(never[1]);
  std::cout << "frames: seed " << seed << ", " << count << " connections, "
            << refused << " refused, " << exchanges << " exchanges, " << failures
            << " failures" << std::endl;
  CHECK(refused > count / 10 && failures > count / 4 && exchanges > count);
}
