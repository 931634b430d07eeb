// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_CORE_SPEC_H
#define HOROVOD_PARTIAL_CORE_SPEC_H

#include <cstdint>
#include <string>
#include <vector>

#include "policy.h"

namespace horovod_partial {

enum class DType : uint8_t { kFloat16, kBFloat16, kFloat32, kFloat64 };
constexpr uint8_t kDTypes = 4;

const char* DTypeName(DType dtype);
// The element type of the buffers that are reduced: bfloat16 travels as
// float32, which Horovod's CPU operations can add.
DType StorageType(DType dtype);
int64_t DTypeBytes(DType dtype);

enum class ReduceOp : uint8_t { kAverage, kSum };

// What a late rank does with its pending rounds.
enum class CatchUp : uint8_t { kReplay, kSum, kLatest };

// Parse "replay", "sum", "latest"; std::invalid_argument otherwise.
CatchUp ParseCatchUp(const std::string& text);
const char* CatchUpName(CatchUp catch_up);

struct TensorSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;

  int64_t Elements() const;
  bool operator==(const TensorSpec& o) const {
    return name == o.name && dtype == o.dtype && shape == o.shape;
  }
};

// When the replicas that a group keeps are healed.
enum class Healing : uint8_t {
  kNever,     // partial_allreduce: there are none
  kAtFlushes, // whoever has the results applies them out of our sight
  kInRounds,  // an optimizer's: when due, and at flushes
};

// What a rank announces of a group; every rank of the process set must
// announce the same.
struct GroupSpec {
  std::string name;
  std::vector<TensorSpec> tensors;
  ReduceOp op = ReduceOp::kAverage;
  double prescale = 1.0;  // applied to the contributions
  double postscale = 1.0; // applied to the sum, beside 1/size for kAverage
  Policy policy;
  uint64_t seed = 0;
  int64_t staleness_bound = 8;
  CatchUp catch_up = CatchUp::kReplay;
  int64_t resync_every = 0; // rounds; 0: never
  Healing healing = Healing::kNever;
  // How many tensors each part has, in the order of the tensors, when
  // submissions come in parts; empty: they come whole.
  std::vector<int32_t> parts;

  int Parts() const {
    return parts.empty() ? 1 : static_cast<int>(parts.size());
  }

  // Throws std::invalid_argument that names the field, its value and what is
  // allowed.
  void Validate() const;

  std::string Serialize() const;
  // Throws std::runtime_error or std::invalid_argument, whatever the bytes.
  static GroupSpec Parse(const std::string& bytes);
};

// How two ranks' announcements of one group differ, in words that name the
// field, both values and both ranks; empty when they agree.
std::string Mismatch(const GroupSpec& a, int rank_a, const GroupSpec& b,
                     int rank_b);

} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_CORE_SPEC_H
