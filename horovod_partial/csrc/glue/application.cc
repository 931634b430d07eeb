// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "application.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <utility>

#include "alarm.h"

namespace horovod_partial {
namespace glue {

Application& Application::Get() {
  // Never destroyed: Horovod's global state, which is at exit, uses it.
  static auto* application = new Application;
  return *application;
}

Application::Elsewhere::Elsewhere(std::function<bool()> done) {
  auto& app = Application::Get();
  std::lock_guard<std::mutex> guard(app.mutex_);
  id_ = ++app.last_wait_;
  app.elsewhere_.emplace(id_, std::move(done));
  app.BeginWait();
  Alarm::Get().Ring(Alarm::kPartial);
}

Application::Elsewhere::~Elsewhere() {
  auto& app = Application::Get();
  std::lock_guard<std::mutex> guard(app.mutex_);
  app.elsewhere_.erase(id_);
  app.EndWait();
}

void Application::PolledNo(int handle, std::function<bool()> done) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (polled_.insert_or_assign(handle, std::move(done)).second) {
    Alarm::Get().Ring(Alarm::kPartial);
  }
}

void Application::EnterExcused() {
  std::lock_guard<std::mutex> guard(mutex_);
  ++excused_;
  BeginWait();
  Alarm::Get().Ring(Alarm::kPartial);
}

void Application::LeaveExcused() {
  std::lock_guard<std::mutex> guard(mutex_);
  --excused_;
  EndWait();
}

void Application::SetEnded(bool ended) {
  std::lock_guard<std::mutex> guard(mutex_);
  ended_ = ended;
  if (ended) {
    Alarm::Get().Ring(Alarm::kPartial);
  }
}

void Application::AddLeft(const std::vector<std::string>& groups) {
  std::lock_guard<std::mutex> guard(mutex_);
  left_.insert(left_.end(), groups.begin(), groups.end());
}

std::vector<std::string> Application::TakeLeft() {
  std::lock_guard<std::mutex> guard(mutex_);
  return std::exchange(left_, {});
}

Ticket Application::Open(Coordinator* coordinator, const std::string& group,
                         bool submission) {
  std::lock_guard<std::mutex> guard(mutex_);
  const Ticket ticket = ++last_ticket_;
  Record record{};
  record.coordinator = coordinator;
  record.group = group;
  record.submission = submission;
  records_.emplace(ticket, std::move(record));
  return ticket;
}

Application::Record& Application::Known(Ticket ticket) {
  auto found = records_.find(ticket);
  if (found == records_.end()) {
    throw std::invalid_argument("handle " + std::to_string(ticket) +
                                " was not created or has been cleared");
  }
  return found->second;
}

bool Application::Poll(Ticket ticket) {
  std::lock_guard<std::mutex> guard(mutex_);
  Record& record = Known(ticket);
  if (!record.done && !record.polled) {
    Alarm::Get().Ring(Alarm::kPartial);
  }
  record.polled = !record.done;
  return record.done;
}

void Application::BeginWait() {
  if (waiting_++ == 0) {
    waiting_since_ = Clock::now();
  }
}

void Application::EndWait() {
  if (--waiting_ == 0) {
    waited_ +=
        std::chrono::duration<double>(Clock::now() - waiting_since_).count();
  }
}

double Application::WaitedSoFar() const {
  return waiting_ == 0
             ? waited_
             : waited_ + std::chrono::duration<double>(Clock::now() -
                                                       waiting_since_)
                             .count();
}

double Application::TakeStep(const Coordinator* coordinator,
                             const std::string& group) {
  std::lock_guard<std::mutex> guard(mutex_);
  const auto step = steps_.extract({coordinator, group});
  if (step.empty()) {
    return 0;
  }
  if (pretended_step_ > 0) {
    return pretended_step_;
  }
  const auto& start = step.mapped();
  return std::chrono::duration<double>(Clock::now() - start.since).count() -
         (WaitedSoFar() - start.waited);
}

void Application::PretendStep(double seconds) {
  std::lock_guard<std::mutex> guard(mutex_);
  pretended_step_ = seconds;
}

bool Application::Wait(Ticket ticket, double seconds) {
  std::unique_lock<std::mutex> lock(mutex_);
  Record& record = Known(ticket);
  const auto start = Clock::now();
  BeginWait();
  ++record.blocked;
  if (!record.done) {
    Alarm::Get().Ring(Alarm::kPartial);
  }
  const bool done =
      answered_.wait_for(lock, std::chrono::duration<double>(seconds),
                         [&record] { return record.done; });
  --record.blocked;
  EndWait();
  if (!record.submission || record.coordinator == nullptr) {
    return done;
  }
  if (done) {
    steps_[{record.coordinator, record.group}] = {Clock::now(), WaitedSoFar()};
  }
  wait_seconds_[{record.coordinator, record.group}] +=
      std::chrono::duration<double>(Clock::now() - start).count();
  return done;
}

void Application::WaitAny(const std::vector<Ticket>& tickets,
                          double seconds) {
  std::unique_lock<std::mutex> lock(mutex_);
  std::vector<Record*> records;
  for (Ticket ticket : tickets) {
    records.push_back(&Known(ticket));
    ++records.back()->blocked;
  }
  Alarm::Get().Ring(Alarm::kPartial);
  answered_.wait_for(lock, std::chrono::duration<double>(seconds),
                     [&records] {
                       return std::any_of(
                           records.begin(), records.end(),
                           [](const Record* record) { return record->done; });
                     });
  for (Record* record : records) {
    --record->blocked;
  }
}

const Completion& Application::Answer(Ticket ticket) {
  std::lock_guard<std::mutex> guard(mutex_);
  Record& record = Known(ticket);
  if (!record.done) {
    throw std::invalid_argument("handle " + std::to_string(ticket) +
                                " has no answer yet");
  }
  return record.completion;
}

void Application::Close(Ticket ticket) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto found = records_.find(ticket);
  if (found == records_.end()) {
    return;
  }
  if (found->second.coordinator != nullptr) {
    auto& rounds = found->second.completion.rounds;
    auto& returned = returned_[found->second.coordinator];
    returned.insert(returned.end(), rounds.begin(), rounds.end());
  }
  records_.erase(found);
}

void Application::Deliver(std::vector<Completion> completions) {
  if (completions.empty()) {
    return;
  }
  std::lock_guard<std::mutex> guard(mutex_);
  for (auto& completion : completions) {
    auto found = records_.find(completion.ticket);
    if (found == records_.end()) {
      continue; // given up by the application
    }
    found->second.completion = std::move(completion);
    found->second.done = true;
  }
  answered_.notify_all();
}

bool Application::WaitsElsewhere() {
  for (auto polled = polled_.begin(); polled != polled_.end();) {
    polled = polled->second() ? polled_.erase(polled) : std::next(polled);
  }
  if (excused_ > 0 || !polled_.empty()) {
    return true;
  }
  return std::any_of(elsewhere_.begin(), elsewhere_.end(),
                     [](const auto& wait) {
                       return !wait.second || !wait.second();
                     });
}

AppState Application::StateFor(const Coordinator* coordinator) {
  std::lock_guard<std::mutex> guard(mutex_);
  AppState state;
  state.over = ended_;
  state.elsewhere = WaitsElsewhere();
  for (const auto& entry : records_) {
    const Record& record = entry.second;
    if (record.done || (record.blocked == 0 && !record.polled)) {
      continue;
    }
    if (record.coordinator == coordinator) {
      state.waits.push_back({entry.first, record.blocked > 0});
    } else {
      state.elsewhere = true;
    }
  }
  return state;
}

double Application::WaitSeconds(const Coordinator* coordinator,
                                const std::string& group) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto found = wait_seconds_.find({coordinator, group});
  return found == wait_seconds_.end() ? 0.0 : found->second;
}

std::vector<std::shared_ptr<Round>>
Application::TakeReturned(const Coordinator* coordinator) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto found = returned_.find(coordinator);
  if (found == returned_.end()) {
    return {};
  }
  return std::move(found->second);
}

std::vector<Ticket> Application::Unanswered(const Coordinator* coordinator) {
  std::lock_guard<std::mutex> guard(mutex_);
  std::vector<Ticket> tickets;
  for (const auto& entry : records_) {
    if (entry.second.coordinator == coordinator && !entry.second.done) {
      tickets.push_back(entry.first);
    }
  }
  return tickets;
}

void Application::Forget(const Coordinator* coordinator) {
  std::lock_guard<std::mutex> guard(mutex_);
  for (auto& entry : records_) {
    if (entry.second.coordinator == coordinator) {
      entry.second.coordinator = nullptr;
    }
  }
  returned_.erase(coordinator);
  for (auto entry = wait_seconds_.begin(); entry != wait_seconds_.end();) {
    entry = entry->first.first == coordinator ? wait_seconds_.erase(entry)
                                              : std::next(entry);
  }
  std::erase_if(steps_, [coordinator](const auto& entry) {
    return entry.first.first == coordinator;
  });
}

} // namespace glue
} // namespace horovod_partial
