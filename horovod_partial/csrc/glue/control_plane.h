// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_GLUE_CONTROL_PLANE_H
#define HOROVOD_PARTIAL_GLUE_CONTROL_PLANE_H

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <poll.h>

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
  // The next cycle may begin once every rank comes along, if one of them has
  // `news`. Said once to whom it concerns.
  void ComeAlong(bool news);
  // The next cycle begins: what was said of it is settled.
  void BeginCycle();

  enum class Op { kAnd, kOr };
  // Combines `words` over the ranks, the same number on each. Collective.
  // Throws std::runtime_error when a peer is gone or out of step.
  void Combine(long long* words, size_t count, Op op);

  // Small tensors go the same way, with fewer hand-overs than in a ring. The
  // ranks' values add up in one order, whoever comes first. Both collective.
  static constexpr size_t kMostBytes = 64 << 10;
  using Reduction = void (*)(void* result, const void* a, const void* b,
                             size_t elements);
  void Reduce(void* data, size_t elements, size_t element_bytes,
              Reduction reduction);
  void Broadcast(void* data, size_t bytes, int root);

private:
  struct Frame;
  enum Coming : uint8_t { kNotYet, kAlong, kWithNews };
  struct Peer {
    int rank;
    int fd;
    Coming coming = kNotYet; // a child, with all that is below it
  };

  ControlPlane(int rank, int size);
  // `token`: what this rank's children say.
  bool ConnectPeers(const std::vector<std::string>& addresses, uint64_t token,
                    int listener, std::string* failure);
  void Forward(const Peer* from);
  // Says upwards, or at the root to all, what has come together here.
  void Gathered();
  size_t FirstChild() const { return rank_ > 0 ? 1 : 0; }
  bool IsBelow(int rank, int ancestor) const;
  void Send(const Peer& peer, uint32_t type, const void* body, size_t bytes);
  void Receive(const Peer& peer, uint32_t type, void* body, size_t bytes);
  // Combines over the ranks by `add`(from a child's bytes in received_).
  template <typename F> void Exchange(void* data, size_t bytes, F add);
  [[noreturn]] void Lost(const Peer& peer, const std::string& why) const;

  const int rank_;
  const int size_;
  std::vector<Peer> peers_; // the parent first, unless this rank is the root
  uint64_t cycle_ = 0;
  uint64_t exchange_ = 0;
  bool wanted_ = false; // by whomever, and all peers have been told
  Coming coming_ = kNotYet; // this rank alone
  Coming said_ = kNotYet;   // to the parent
  std::vector<long long> received_;
  std::vector<pollfd> entries_;
};

} // namespace glue
} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_GLUE_CONTROL_PLANE_H
