// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "spec.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>

#include "wire.h"

namespace horovod_partial {
namespace {

const char* kCatchUpNames[] = {"replay", "sum", "latest"};
const char* kOpNames[] = {"Average", "Sum"};
const char* kUses[] = {"partial_allreduce", "gradients for the user to apply",
                       "an optimizer"};

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) {
      text += ", ";
    }
    text += std::to_string(shape[i]);
  }
  return text + ")";
}

std::string TensorText(const TensorSpec& tensor) {
  return "'" + tensor.name + "' of " + DTypeName(tensor.dtype) + " " +
         ShapeText(tensor.shape);
}

template <typename T> std::string Text(const T& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

std::string OrderText(const GroupSpec& spec) {
  return "from '" + spec.tensors.front().name + "' to '" +
         spec.tensors.back().name + "'";
}

std::string PartsText(const GroupSpec& spec) {
  std::string text;
  for (int32_t count : spec.parts) {
    text += (text.empty() ? "" : " + ") + Text(count);
  }
  return text.empty() ? "one" : text + " tensors";
}

} // namespace

const char* DTypeName(DType dtype) {
  static const char* names[] = {"float16", "bfloat16", "float32", "float64"};
  return names[static_cast<int>(dtype)];
}

DType StorageType(DType dtype) {
  return dtype == DType::kBFloat16 ? DType::kFloat32 : dtype;
}

int64_t DTypeBytes(DType dtype) {
  static const int64_t bytes[] = {2, 2, 4, 8};
  return bytes[static_cast<int>(dtype)];
}

CatchUp ParseCatchUp(const std::string& text) {
  for (int i = 0; i < 3; ++i) {
    if (text == kCatchUpNames[i]) {
      return static_cast<CatchUp>(i);
    }
  }
  throw std::invalid_argument("catch_up='" + text +
                              "' is not known: use 'replay', 'sum' or "
                              "'latest'");
}

const char* CatchUpName(CatchUp catch_up) {
  return kCatchUpNames[static_cast<int>(catch_up)];
}

int64_t TensorSpec::Elements() const {
  int64_t elements = 1;
  for (int64_t dim : shape) {
    elements *= dim;
  }
  return elements;
}

void GroupSpec::Validate() const {
  if (name.empty()) {
    throw std::invalid_argument("name='' is empty: a group needs a name");
  }
  if (tensors.empty()) {
    throw std::invalid_argument("group '" + name +
                                "' has no tensors: give at least one");
  }
  if (policy.k < 1) {
    throw std::invalid_argument("policy: K=" + Text(policy.k) +
                                " must be at least 1");
  }
  if (!(policy.staleness_cost >= 0) || std::isinf(policy.staleness_cost)) {
    throw std::invalid_argument("policy: staleness_cost=" +
                                Text(policy.staleness_cost) +
                                " must be 0 or more");
  }
  if (staleness_bound < 1) {
    throw std::invalid_argument("staleness_bound=" + Text(staleness_bound) +
                                " must be at least 1");
  }
  if (resync_every < 0) {
    throw std::invalid_argument("resync_every=" + Text(resync_every) +
                                " must be at least 1, or None for never");
  }
  int64_t in_parts = 0;
  for (int32_t count : parts) {
    if (count < 1) {
      throw std::invalid_argument("group '" + name + "' has a part of " +
                                  Text(count) + " tensors: give at least one");
    }
    in_parts += count;
  }
  if (!parts.empty() && in_parts != static_cast<int64_t>(tensors.size())) {
    throw std::invalid_argument(
        "group '" + name + "' has " + Text(tensors.size()) +
        " tensors, but " + Text(in_parts) + " in its parts");
  }
  constexpr int64_t most = std::numeric_limits<int64_t>::max() / 16;
  int64_t total = 0;
  for (const auto& tensor : tensors) {
    int64_t elements = 1;
    for (int64_t dim : tensor.shape) {
      if (dim < 0 || (dim > 0 && elements > most / dim)) {
        throw std::invalid_argument("tensor " + TensorText(tensor) +
                                    " has an impossible shape");
      }
      elements *= dim;
    }
    if (elements > most - total) {
      throw std::invalid_argument("group '" + name + "' is too large");
    }
    total += elements;
  }
}

std::string GroupSpec::Serialize() const {
  WireWriter out;
  out.String(name);
  out.Number(static_cast<uint8_t>(op));
  out.Number(prescale);
  out.Number(postscale);
  out.Number(static_cast<uint8_t>(policy.kind));
  out.Number(static_cast<int32_t>(policy.k));
  out.Number(policy.staleness_cost);
  out.Number(seed);
  out.Number(staleness_bound);
  out.Number(static_cast<uint8_t>(catch_up));
  out.Number(resync_every);
  out.Number(static_cast<uint8_t>(healing));
  out.Number(static_cast<uint32_t>(tensors.size()));
  for (const auto& tensor : tensors) {
    out.String(tensor.name);
    out.Number(static_cast<uint8_t>(tensor.dtype));
    out.Number(static_cast<uint32_t>(tensor.shape.size()));
    for (int64_t dim : tensor.shape) {
      out.Number(dim);
    }
  }
  out.Number(static_cast<uint32_t>(parts.size()));
  for (int32_t count : parts) {
    out.Number(count);
  }
  return out.Take();
}

GroupSpec GroupSpec::Parse(const std::string& bytes) {
  WireReader in(bytes);
  GroupSpec spec;
  spec.name = in.String();
  spec.op = static_cast<ReduceOp>(in.Choice(2));
  spec.prescale = in.Number<double>();
  spec.postscale = in.Number<double>();
  spec.policy.kind = static_cast<PolicyKind>(in.Choice(6));
  spec.policy.k = in.Number<int32_t>();
  spec.policy.staleness_cost = in.Number<double>();
  spec.seed = in.Number<uint64_t>();
  spec.staleness_bound = in.Number<int64_t>();
  spec.catch_up = static_cast<CatchUp>(in.Choice(3));
  spec.resync_every = in.Number<int64_t>();
  spec.healing = static_cast<Healing>(in.Choice(3));
  const uint32_t tensors = in.Count(9);
  for (uint32_t i = 0; i < tensors; ++i) {
    TensorSpec tensor;
    tensor.name = in.String();
    tensor.dtype = static_cast<DType>(in.Choice(kDTypes));
    const uint32_t dims = in.Count(sizeof(int64_t));
    for (uint32_t d = 0; d < dims; ++d) {
      tensor.shape.push_back(in.Number<int64_t>());
    }
    spec.tensors.push_back(std::move(tensor));
  }
  const uint32_t parts = in.Count(sizeof(int32_t));
  for (uint32_t i = 0; i < parts; ++i) {
    spec.parts.push_back(in.Number<int32_t>());
  }
  in.End();
  spec.Validate();
  return spec;
}

std::string Mismatch(const GroupSpec& a, int rank_a, const GroupSpec& b,
                     int rank_b) {
  auto differ = [&](const std::string& field, const std::string& value_a,
                    const std::string& value_b) {
    return "group '" + a.name + "': " + field + " must be the same on every " +
           "rank, but is " + value_a + " on rank " + std::to_string(rank_a) +
           " and " + value_b + " on rank " + std::to_string(rank_b);
  };
  if (a.op != b.op) {
    return differ("op", kOpNames[static_cast<int>(a.op)],
                  kOpNames[static_cast<int>(b.op)]);
  }
  if (a.prescale != b.prescale || a.postscale != b.postscale) {
    return differ("the scaling (gradient_predivide_factor)",
                  Text(a.prescale) + " and " + Text(a.postscale),
                  Text(b.prescale) + " and " + Text(b.postscale));
  }
  if (!(a.policy == b.policy)) {
    return differ("policy", "'" + a.policy.ToString() + "'",
                  "'" + b.policy.ToString() + "'");
  }
  if (a.seed != b.seed) {
    return differ("seed", Text(a.seed), Text(b.seed));
  }
  if (a.staleness_bound != b.staleness_bound) {
    return differ("staleness_bound", Text(a.staleness_bound),
                  Text(b.staleness_bound));
  }
  if (a.catch_up != b.catch_up) {
    return differ("catch_up", std::string("'") + CatchUpName(a.catch_up) + "'",
                  std::string("'") + CatchUpName(b.catch_up) + "'");
  }
  if (a.resync_every != b.resync_every) {
    return differ("resync_every", Text(a.resync_every), Text(b.resync_every));
  }
  if (a.healing != b.healing) {
    return differ("its use", kUses[static_cast<int>(a.healing)],
                  kUses[static_cast<int>(b.healing)]);
  }
  if (a.tensors.size() != b.tensors.size()) {
    return differ("the number of tensors", Text(a.tensors.size()),
                  Text(b.tensors.size()));
  }
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    if (!(a.tensors[i] == b.tensors[i])) {
      if (std::equal(a.tensors.begin(), a.tensors.end(), b.tensors.rbegin())) {
        // Or this tensor would be blamed for what one argument does.
        return differ("the order of tensors (reversed by bucket_cap_mb)",
                      OrderText(a), OrderText(b));
      }
      return differ("tensor " + std::to_string(i), TensorText(a.tensors[i]),
                    TensorText(b.tensors[i]));
    }
  }
  if (a.parts != b.parts) {
    return differ("the parts that gradients come in (bucket_cap_mb)",
                  PartsText(a), PartsText(b));
  }
  return "";
}

} // namespace horovod_partial
