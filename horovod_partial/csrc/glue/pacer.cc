// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "pacer.h"

#include <cstdlib>
#include <cstring>
#include <thread>

#include "alarm.h"
#include "control_plane.h"
#include "gather.h"
#include "horovod/common/controller.h"
#include "horovod/common/logging.h"
#include "horovod_partial/csrc/core/member.h"

namespace horovod_partial {
namespace glue {
namespace {

namespace hvd = horovod::common;
using hvd::LogLevel; // for LOG
using hvd::LogMessage;

// A wake-up that is lost costs this at most, never a hang. Timers of Horovod's
// (stalls) are looked at as often. Tests make it long: a lost wake-up hangs.
Pacer::Clock::duration SafetyCycle() {
  const char* text = std::getenv("HOROVOD_SAFETY_CYCLE_SECONDS");
  const double seconds = text != nullptr ? std::strtod(text, nullptr) : 0;
  return std::chrono::duration_cast<Pacer::Clock::duration>(
      std::chrono::duration<double>(seconds > 0 ? seconds : 1));
}

bool Willing() {
  const char* value = std::getenv("HOROVOD_EVENT_DRIVEN");
  return value == nullptr || std::strcmp(value, "0") != 0;
}

} // namespace

Pacer::Pacer() = default;
Pacer::~Pacer() = default;

void Pacer::Start(hvd::Controller& controller) {
  Stop();
  safety_cycle_ = SafetyCycle();
  std::string failure;
  const bool willing = Willing();
  plane_ = ControlPlane::Connect(
      controller.GetRank(), controller.GetSize(), willing,
      [&controller](const std::string& message) {
        return GatherMessages(controller, message);
      },
      &failure);
  if (!plane_ && controller.GetRank() == 0 && willing) {
    LOG(WARNING) << "Cycles follow the clock of HOROVOD_CYCLE_TIME, not "
                    "events: "
                 << failure << ".";
  }
  follow_up_ = false;
  others_know_ = true;
}

void Pacer::Stop() { plane_.reset(); }

void Pacer::FollowUp(bool all_know) {
  others_know_ = (follow_up_ ? others_know_ : true) && all_know;
  follow_up_ = true;
}

void Pacer::WaitForCycle(Clock::duration cycle_time, bool clocked,
                         const std::function<Want(bool operations)>& stir) {
  if (!plane_ || clocked) {
    std::this_thread::sleep_until(last_cycle_ + cycle_time);
  } else {
    const auto safety = last_cycle_ + safety_cycle_;
    const auto gathered = last_cycle_ + cycle_time;
    bool look = true; // what the last cycle left may go on with the others
    while (true) {
      const unsigned rung = Alarm::Get().Take();
      operation_ = operation_ || (rung & Alarm::kOperation) != 0;
      host_ = host_ || (rung & Alarm::kHost) != 0;
      look = look || (rung & Alarm::kPartial) != 0;
      if (follow_up_ && others_know_) {
        break;
      }
      const auto now = Clock::now();
      if (follow_up_ || host_ || now >= safety) {
        plane_->Wake();
        break;
      }
      const bool operations = operation_ && now >= gathered;
      if (look || operations) {
        const Want want = stir(operations);
        if (want == Want::kNow) {
          plane_->Wake();
          break;
        }
        if (want != Want::kNothing) {
          plane_->ComeAlong(want == Want::kTogether);
        }
        operation_ = operation_ && !operations;
        look = false;
      }
      if (plane_->Wait(Alarm::Get().fd(), operation_ ? gathered : safety)) {
        break;
      }
    }
  }
  if (plane_) {
    plane_->BeginCycle();
  }
  operation_ = host_ = false;
  follow_up_ = false;
  others_know_ = true;
  last_cycle_ = Clock::now();
}

} // namespace glue
} // namespace horovod_partial
