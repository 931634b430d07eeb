// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_GLUE_GATHER_H
#define HOROVOD_PARTIAL_GLUE_GATHER_H

#include <string>
#include <vector>

namespace horovod {
namespace common {
class Controller;
} // namespace common
} // namespace horovod

namespace horovod_partial {
namespace glue {

// Every rank's message to every rank, by the bit-wise OR that any controller
// has: a rank's part of the buffer is zero on the others. Collective.
std::vector<std::string> GatherMessages(horovod::common::Controller& controller,
                                        const std::string& message);

} // namespace glue
} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_GLUE_GATHER_H
