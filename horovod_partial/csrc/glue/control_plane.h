// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_GLUE_CONTROL_PLANE_H
#define HOROVOD_PARTIAL_GLUE_CONTROL_PLANE_H

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace horovod_partial {
namespace glue {

// Connections between the ranks' background threads, a tree of sockets. They
// carry wake-ups, so that nobody has to poll, and the small exchanges that all
// ranks make: up the tree, and the result down again. Belongs to the
// background thread.
class ControlPlane {
public:
  using Clock = std::chrono::steady_clock;
  // Every rank's message to every rank.
  using Gather =
      std::function<std::vector<std::string>(const std::string& message)>;

  // Collective. nullptr on every rank if some rank is not `willing` or could
  // not connect; `failure` says why, on rank 0.
  static std::unique_ptr<ControlPlane> Connect(int rank, int size, bool willing,
                                               const Gather& gather,
                                               std::string* failure);
  ~ControlPlane();
  ControlPlane(const ControlPlane&) = delete;

  // Sleeps until a peer wants the next cycle (true), `fd` is readable or
  // `deadline` has come (false). Throws std::runtime_error when a peer is gone.
  bool Wait(int fd, Clock::time_point deadline);
  // Lets all other ranks know that the next cycle is wanted.
  void Wake();
  // The next cycle begins: what was said of it is settled.
  void BeginCycle();

  enum class Op { kAnd, kOr };
  // Combines `words` over the ranks, the same number on each. Collective.
  // Throws std::runtime_error when a peer is gone or out of step.
  void Combine(long long* words, size_t count, Op op);

private:
  struct Frame;
  struct Peer {
    int rank;
    int fd;
  };

  ControlPlane(int rank, int size);
  bool ConnectPeers(const std::vector<std::string>& addresses, int listener,
                    std::string* failure);
  void Forward(const Peer* from);
  void Send(const Peer& peer, const Frame& frame, const void* body);
  void ReceiveWords(const Peer& peer, uint32_t type, long long* words,
                    size_t count);
  [[noreturn]] void Lost(const Peer& peer, const std::string& why) const;

  const int rank_;
  const int size_;
  std::vector<Peer> peers_; // the parent first, unless this rank is the root
  uint64_t cycle_ = 0;
  uint64_t exchange_ = 0;
  bool wanted_ = false; // by whomever, and all peers have been told
  std::vector<long long> received_;
};

} // namespace glue
} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_GLUE_CONTROL_PLANE_H
