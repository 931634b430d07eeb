// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include <algorithm>
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

// The peer: of two ranks, either the parent, which listens, or the child.
class Peer {
public:
  Peer(bool parent, uint64_t seed) : parent_(parent), random_(seed) {
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
    thread_.join();
    if (parent_) {
      close(listener_);
    }
  }

  // ControlPlane::Gather of the honest rank: first addresses, then problems.
  std::vector<std::string> Gather(const std::string& message) {
    if (thread_.joinable()) {
      CHECK(message.empty());
      return {"", ""};
    }
    uint64_t token;
    int port;
    std::string host;
    std::istringstream(message) >> token >> port >> host;
    thread_ = std::thread([this, token, port] { Run(token, port); });
    const std::string own = "7 " + std::to_string(port_) + " " + host;
    return parent_ ? std::vector<std::string>{own, message}
                   : std::vector<std::string>{message, own};
  }

private:
  void Run(uint64_t token, int port) {
    Hello hello{token, 1};
    char yes = 1;
    int fd;
    if (parent_) {
      fd = accept(listener_, nullptr, nullptr);
      CHECK(recv(fd, &hello, sizeof(hello), MSG_WAITALL) == sizeof(hello));
      CHECK(hello.token == 7 && send(fd, &yes, 1, 0) == 1);
    } else {
      fd = socket(AF_INET, SOCK_STREAM, 0);
      const auto address = Local(port);
      CHECK(connect(fd, reinterpret_cast<const sockaddr*>(&address),
                    sizeof(address)) == 0);
      CHECK(send(fd, &hello, sizeof(hello), 0) == sizeof(hello));
      CHECK(recv(fd, &yes, 1, 0) == 1);
    }
    const std::string bytes =
        DamagedFrames(parent_ ? Frame::kDown : Frame::kUp, random_);
    send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    // Until the other end has gone: a reset would take from it what was sent.
    char rest[256];
    while (recv(fd, rest, sizeof(rest), 0) > 0) {
    }
    close(fd);
  }

  const bool parent_;
  Random random_;
  int listener_ = -1;
  int port_ = 0;
  std::thread thread_;
};

} // namespace

void FuzzFrames(uint64_t seed, int count) {
  int exchanges = 0;
  int failures = 0;
  int never[2]; // becomes readable
  CHECK(pipe(never) == 0);
  for (int i = 0; i < count; ++i) {
    const bool parent = i % 2 == 0;
    Peer peer(parent, seed + i);
    std::string failure;
    auto plane = ControlPlane::Connect(
        parent ? 1 : 0, 2, true,
        [&peer](const std::string& message) { return peer.Gather(message); },
        &failure);
    CHECK(plane);
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
            << exchanges << " exchanges, " << failures << " failures"
            << std::endl;
  CHECK(failures > count / 4 && exchanges > count);
}
