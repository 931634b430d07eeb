// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_GLUE_PACER_H
#define HOROVOD_PARTIAL_GLUE_PACER_H

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

// No header of Horovod's: its headers include this one.

namespace horovod {
namespace common {
class Controller;
} // namespace common
} // namespace horovod

namespace horovod_partial {

enum class Want : uint8_t;

namespace glue {

class ControlPlane;

// When Horovod's background thread makes its next cycle. Horovod makes one
// each HOROVOD_CYCLE_TIME, on every rank, for nothing where nothing happens.
// Unless HOROVOD_EVENT_DRIVEN=0 on any rank, one that has something to say wakes
// the others, and all sleep otherwise.
class Pacer {
public:
  using Clock = std::chrono::steady_clock;

  Pacer();
  ~Pacer();

  // Collective, over all ranks of the job.
  void Start(horovod::common::Controller& controller);
  void Stop();

  // Sleeps until the next cycle is due. `cycle_time`: the least time from one
  // cycle to the next in which operations gather. `stir` says what this rank
  // makes of a next cycle, given whether new operations wait; `clocked`: by the
  // clock, for now.
  void WaitForCycle(Clock::duration cycle_time, bool clocked,
                    const std::function<Want(bool operations)>& stir);
  // The cycle left something for the next one to do: on all ranks alike, or
  // for all that this rank knows.
  void FollowUp(bool all_know);

  // nullptr where Horovod's own connections carry the exchanges.
  ControlPlane* plane() const { return plane_.get(); }

private:
  std::unique_ptr<ControlPlane> plane_;
  Clock::time_point last_cycle_{};
  Clock::duration safety_cycle_{};
  bool operation_ = false; // of Horovod's own, that nobody has heard of
  bool host_ = false;      // wants a cycle
  bool follow_up_ = false;
  bool others_know_ = true;
};

} // namespace glue
} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_GLUE_PACER_H
