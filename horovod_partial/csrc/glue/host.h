// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_GLUE_HOST_H
#define HOROVOD_PARTIAL_GLUE_HOST_H

#include <cstdint>
#include <memory>

namespace horovod_partial {
namespace glue {
class Coordinator;
} // namespace glue
} // namespace horovod_partial

namespace horovod {
namespace common {

// What patches/partial add to horovod/common/operations.cc for us.

// Whether there is a background thread that takes requests.
bool PartialHostAlive();
// Of a process set; nullptr when there is none of that id, or this rank is not
// in it. It stays usable when the set goes away meanwhile.
std::shared_ptr<horovod_partial::glue::Coordinator>
PartialHostCoordinator(int32_t id);

} // namespace common
} // namespace horovod

#endif // HOROVOD_PARTIAL_GLUE_HOST_H
