// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_GLUE_COORDINATOR_H
#define HOROVOD_PARTIAL_GLUE_COORDINATOR_H

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

// The only header of ours that Horovod's headers include: it must not include
// any of theirs.

namespace horovod {
namespace common {
class Controller;
class Response;
class TensorQueue;
class Timeline;
struct TensorTableEntry;
} // namespace common
} // namespace horovod

namespace horovod_partial {

struct Change;
struct Request;
struct GroupSpec;
enum class Want : uint8_t;
using Ticket = uint64_t;

namespace glue {

// The partial collectives of one process set: carries a core::Member through
// Horovod's cycle. Decides nothing.
//
// The background thread calls, in each cycle and in this order:
//   Snapshot   before the exchange that all ranks make;
//   Resolve    with what the exchange gave;
//   Execute    after ComputeResponseList, unless Horovod shuts down.
// Between two cycles it may call Stir. Application threads call the rest; they
// share it with its process set, which may go away while they use it.
class Coordinator {
public:
  // Runs an operation of Horovod's on tensors of ours; throws on failure.
  using Perform = std::function<void(horovod::common::TensorTableEntry&,
                                     const horovod::common::Response&)>;

  Coordinator();
  // `most_bytes`: no group that another rank announces can be larger. By
  // default, what this machine has.
  explicit Coordinator(int64_t most_bytes);
  ~Coordinator();
  Coordinator(const Coordinator&) = delete;

  // `queue`: the synchronous operations outstanding on this rank. The bits are
  // in a form that a bit-wise AND over the ranks combines.
  std::vector<long long>& Snapshot(const horovod::common::Controller& controller,
                                   bool joined,
                                   const horovod::common::TensorQueue& queue);
  // Takes what the application asked since, answers what needs no exchange,
  // and says what this rank makes of the next one: a Snapshot that is not sent.
  // `operations`: synchronous ones may be new; `of_all`: in the process set of
  // all ranks.
  Want Stir(const horovod::common::Controller& controller, bool joined,
            const horovod::common::TensorQueue& queue, bool operations,
            bool of_all);
  // Warns of what ranks have waited for longer than `warning_seconds`, naming
  // who is waited for and why; true when something has waited longer than
  // `shutdown_seconds`, if that is not 0. For the set's first rank, after a
  // Snapshot.
  bool CheckForStalls(int warning_seconds, int shutdown_seconds);
  void Resolve(horovod::common::Timeline& timeline);
  void Execute(horovod::common::Controller& controller, int process_set_id,
               const Perform& perform);
  // Whether the next cycle is due at once; the same on every rank of the set.
  bool follow_up() const;
  // The process set goes away: requests fail with `message`, those that come
  // later, too.
  void Finalize(const std::string& message);
  // The process set begins anew, with another Horovod.
  void Reopen();

  // As of the last exchange, for the background thread: ranks that have ended,
  // and whether a synchronous operation cannot complete without one of them.
  int ended_count() const;
  bool this_rank_ended() const;
  bool Lost(const std::string& operation) const;

  // Whether some rank has ended, or every rank with nothing outstanding. For any
  // thread.
  bool some_ended() const;
  bool all_ended() const;

  // Hands a request to the background thread. Throws std::runtime_error when
  // the process set has gone away.
  Ticket Ask(const std::string& group, std::shared_ptr<const GroupSpec> spec,
             Request request);

  // Numbers of a group in the order of kStatNames; false when it is not known.
  bool Stats(const std::string& group, std::vector<double>* values) const;
  static const char* const kStatNames[];
  static const int kStats;

  // Changes of K under policy auto, oldest first.
  std::vector<Change> Changes(const std::string& group) const;

  // What the ranks have registered; nullptr when the group is not known.
  std::shared_ptr<const GroupSpec> SpecOf(const std::string& group) const;

  // What a checkpoint needs of a group, between two rounds: the send buffer
  // (empty if it holds nothing) and copies of the pending rounds.
  struct Saved {
    std::string send_buffer;
    bool drifted = false;
    struct Pending {
      int64_t index;
      int64_t count;
      bool empty;
      std::string result;
    };
    std::vector<Pending> pending;
  };
  bool Save(const std::string& group, Saved* saved) const;

private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

} // namespace glue
} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_GLUE_COORDINATOR_H
