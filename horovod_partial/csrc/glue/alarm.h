// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_GLUE_ALARM_H
#define HOROVOD_PARTIAL_GLUE_ALARM_H

#include <atomic>

namespace horovod_partial {
namespace glue {

// Wakes this process's background thread, from any thread. What it rings for
// has to be visible to the background thread before.
class Alarm {
public:
  enum Kind : unsigned {
    kOperation = 1, // one of Horovod's waits in a tensor queue
    kPartial = 2,   // the application asked, or stands elsewhere: look at it
    kHost = 4,      // something else that the other ranks have to hear of
  };

  static Alarm& Get();

  void Ring(Kind kind);
  // The kinds that have rung since the last call.
  unsigned Take();
  // Becomes readable when it rings.
  int fd() const { return pipe_[0]; }

private:
  Alarm();

  int pipe_[2];
  std::atomic<unsigned> rung_{0};
};

} // namespace glue
} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_GLUE_ALARM_H
