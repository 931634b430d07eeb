# What Horovod's CMakeLists.txt (patches/partial/build.patch) takes from here:
# the core and the glue become part of each of Horovod's libraries.
set(HOROVOD_PARTIAL_CSRC "${HOROVOD_PARTIAL_ROOT}/horovod_partial/csrc")
list(APPEND SOURCES
        "${HOROVOD_PARTIAL_CSRC}/core/buffer.cc"
        "${HOROVOD_PARTIAL_CSRC}/core/decide.cc"
        "${HOROVOD_PARTIAL_CSRC}/core/group.cc"
        "${HOROVOD_PARTIAL_CSRC}/core/member.cc"
        "${HOROVOD_PARTIAL_CSRC}/core/policy.cc"
        "${HOROVOD_PARTIAL_CSRC}/core/replay.cc"
        "${HOROVOD_PARTIAL_CSRC}/core/spec.cc"
        "${HOROVOD_PARTIAL_CSRC}/core/tuner.cc"
        "${HOROVOD_PARTIAL_CSRC}/glue/alarm.cc"
        "${HOROVOD_PARTIAL_CSRC}/glue/application.cc"
        "${HOROVOD_PARTIAL_CSRC}/glue/c_api.cc"
        "${HOROVOD_PARTIAL_CSRC}/glue/control_plane.cc"
        "${HOROVOD_PARTIAL_CSRC}/glue/coordinator.cc"
        "${HOROVOD_PARTIAL_CSRC}/glue/evaluator.cc"
        "${HOROVOD_PARTIAL_CSRC}/glue/gather.cc"
        "${HOROVOD_PARTIAL_CSRC}/glue/pacer.cc")
# Their headers are named from the root; Horovod's own, as horovod/common/...
include_directories("${HOROVOD_PARTIAL_ROOT}" "${PROJECT_SOURCE_DIR}")
