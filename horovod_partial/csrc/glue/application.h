// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_GLUE_APPLICATION_H
#define HOROVOD_PARTIAL_GLUE_APPLICATION_H

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "horovod_partial/csrc/core/member.h"

namespace horovod_partial {
namespace glue {

class Coordinator;

// What this process's application is doing, as far as it concerns partial
// collectives: the requests it has made, what it waits for, and whether it has
// ended. The application's threads write it, background threads read it. One
// for each of Horovod's libraries in the process, as Horovod's own state is.
class Application {
public:
  static Application& Get();

  // Waits for something that is no partial collective. `done` says whether it
  // has come to an end although the waiting thread has not noticed yet; it is
  // called on the background thread and must not call back here.
  class Elsewhere {
  public:
    explicit Elsewhere(std::function<bool()> done = nullptr);
    ~Elsewhere();
    Elsewhere(const Elsewhere&) = delete;

  private:
    uint64_t id_;
  };

  // A poll of a synchronous operation said no: until `done`, that is a wait.
  void PolledNo(int handle, std::function<bool()> done);

  // `with hvd.excused():` nests.
  void EnterExcused();
  void LeaveExcused();

  // The application has ended in the normal way, or (false) Horovod has shut
  // down and may start anew.
  void SetEnded(bool ended);

  // The groups whose send buffer still held something when their process set
  // ended. TakeLeft begins a new list.
  void AddLeft(const std::vector<std::string>& groups);
  std::vector<std::string> TakeLeft();

  // Requests. Open gives a ticket to hand to a Coordinator. A ticket is kept
  // until Close.
  Ticket Open(Coordinator* coordinator, const std::string& group,
              bool submission);
  bool Poll(Ticket ticket);
  // Blocks for at most `seconds`; whether the answer is there.
  bool Wait(Ticket ticket, double seconds);
  // Blocks until one of them has its answer, at most `seconds`.
  void WaitAny(const std::vector<Ticket>& tickets, double seconds);
  // The answer; valid until Close. Throws std::invalid_argument for a ticket
  // that is not known or has no answer yet.
  const Completion& Answer(Ticket ticket);
  void Close(Ticket ticket);
  // How long the application has computed since it took the last answer to a
  // submission to this group, in seconds, waits for other things not counted; 0
  // when that is not known. Once for each answer.
  double TakeStep(const Coordinator* coordinator, const std::string& group);
  // For tests: what TakeStep says instead of what it measures, unless 0.
  void PretendStep(double seconds);

  // For background threads.
  void Deliver(std::vector<Completion> completions);
  AppState StateFor(const Coordinator* coordinator);
  // Time that threads were blocked on submissions to a group so far, seconds.
  double WaitSeconds(const Coordinator* coordinator, const std::string& group);
  // Results that the application does not need any longer: their buffers go
  // back to the pool on the thread that the pool belongs to.
  std::vector<std::shared_ptr<Round>>
  TakeReturned(const Coordinator* coordinator);
  // Drops what there is of a coordinator that takes and answers no more
  // requests.
  void Forget(const Coordinator* coordinator);
  // The tickets of a coordinator that have no answer yet.
  std::vector<Ticket> Unanswered(const Coordinator* coordinator);

private:
  struct Record {
    Coordinator* coordinator; // nullptr when it is gone
    std::string group;
    bool submission;
    bool done = false;
    bool polled = false; // the last poll said no
    int blocked = 0;     // threads in Wait
    Completion completion;
  };

  using Clock = std::chrono::steady_clock;

  Record& Known(Ticket ticket);
  // Between the two, a thread waits. `mutex_` is held.
  void BeginWait();
  void EndWait();
  double WaitedSoFar() const;
  bool WaitsElsewhere();

  std::mutex mutex_;
  std::condition_variable answered_;
  std::map<Ticket, Record> records_;
  Ticket last_ticket_ = 0;
  uint64_t last_wait_ = 0;
  std::map<uint64_t, std::function<bool()>> elsewhere_;
  std::map<int, std::function<bool()>> polled_;
  int excused_ = 0;
  bool ended_ = false;
  std::vector<std::string> left_;
  std::map<std::pair<const Coordinator*, std::string>, double> wait_seconds_;
  struct StepStart {
    Clock::time_point since;
    double waited; // WaitedSoFar() then
  };
  std::map<std::pair<const Coordinator*, std::string>, StepStart> steps_;
  double pretended_step_ = 0;
  int waiting_ = 0;
  Clock::time_point waiting_since_;
  double waited_ = 0;
  std::map<const Coordinator*, std::vector<std::shared_ptr<Round>>> returned_;
};

} // namespace glue
} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_GLUE_APPLICATION_H
