// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "alarm.h"

#include <cerrno>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

namespace horovod_partial {
namespace glue {

Alarm& Alarm::Get() {
  // Never destroyed: threads ring until the process is gone.
  static Alarm* alarm = new Alarm;
  return *alarm;
}

Alarm::Alarm() {
  if (pipe(pipe_) != 0) {
    throw std::system_error(errno, std::generic_category(), "pipe");
  }
  for (int fd : pipe_) {
    fcntl(fd, F_SETFL, O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
}

void Alarm::Ring(Kind kind) {
  if ((rung_.fetch_or(kind) & kind) == 0) {
    const char byte = 0;
    // A full pipe is readable anyway.
    (void)!write(pipe_[1], &byte, 1);
  }
}

unsigned Alarm::Take() {
  char bytes[16];
  while (read(pipe_[0], bytes, sizeof(bytes)) > 0) {
  }
  return rung_.exchange(0);
}

} // namespace glue
} // namespace horovod_partial
