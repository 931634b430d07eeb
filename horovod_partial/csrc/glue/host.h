// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_GLUE_HOST_H
#define HOROVOD_PARTIAL_GLUE_HOST_H

#include <cstdint>

namespace horovod {
namespace common {

struct ProcessSet;

// What patches/partial add to horovod/common/operations.cc for us.

// Whether there is a background thread that takes requests.
bool PartialHostAlive();
// nullptr when there is no such process set, or this rank is not in it.
ProcessSet* PartialHostProcessSet(int32_t id);

} // namespace common
} // namespace horovod

#endif // HOROVOD_PARTIAL_GLUE_HOST_H
