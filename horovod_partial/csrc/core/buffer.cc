// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "buffer.h"

#include <algorithm>
#include <cstring>

namespace horovod_partial {
namespace {

uint32_t FloatBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

float BitsFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) { // infinity and NaN
    return BitsFloat(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  }
  // A multiplication by 2^112 re-bases the exponent, subnormals included.
  return BitsFloat(sign | FloatBits(BitsFloat(magnitude << 13) * 0x1p112f));
}

// Round to nearest, ties to even.
uint16_t FloatToHalf(float value) {
  const uint32_t bits = FloatBits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u);
  }
  if (magnitude >= 0x477ff000u) { // rounds to more than the largest half
    return static_cast<uint16_t>(sign | 0x7c00u);
  }
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 makes the float unit round at the half's last bit.
    const float shifted = BitsFloat(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (FloatBits(shifted) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return static_cast<uint16_t>(
      sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

float BFloatToFloat(uint16_t bfloat) {
  return BitsFloat(static_cast<uint32_t>(bfloat) << 16);
}

uint16_t FloatToBFloat(float value) {
  const uint32_t bits = FloatBits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return static_cast<uint16_t>((bits >> 16) | 0x40u);
  }
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

template <typename T> void AddArrays(T* to, const T* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    to[i] += from[i];
  }
}

void AddHalves(uint16_t* to, const uint16_t* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    to[i] = FloatToHalf(HalfToFloat(to[i]) + HalfToFloat(from[i]));
  }
}

// The factor is rounded to the type of the product, as Horovod does.
template <typename T> void ScaleArray(T* values, T factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    values[i] *= factor;
  }
}

void ScaleHalves(uint16_t* values, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    values[i] = FloatToHalf(HalfToFloat(values[i]) * factor);
  }
}

// Adds arrays of one storage type.
void AddStored(DType storage, void* to, const void* from, int64_t n) {
  switch (storage) {
  case DType::kFloat16:
    AddHalves(static_cast<uint16_t*>(to), static_cast<const uint16_t*>(from),
              n);
    break;
  case DType::kFloat64:
    AddArrays(static_cast<double*>(to), static_cast<const double*>(from), n);
    break;
  default:
    AddArrays(static_cast<float*>(to), static_cast<const float*>(from), n);
  }
}

} // namespace

Layout::Layout(const std::vector<TensorSpec>& tensors,
               const std::vector<int32_t>& parts) {
  for (const auto& tensor : tensors) {
    auto found = std::find(dtypes_.begin(), dtypes_.end(), tensor.dtype);
    const int buffer = static_cast<int>(found - dtypes_.begin());
    if (found == dtypes_.end()) {
      dtypes_.push_back(tensor.dtype);
      elements_.push_back(0);
    }
    places_.push_back({buffer, elements_[buffer], tensor.Elements()});
    elements_[buffer] += tensor.Elements();
  }
  part_begins_.push_back(0);
  for (int32_t count : parts) {
    part_begins_.push_back(part_begins_.back() + count);
  }
  if (parts.empty()) {
    part_begins_.push_back(tensors.size());
  }
}

Layout::Span Layout::PartsIn(int buffer, int begin, int end) const {
  Span span{0, 0};
  for (size_t t = 0; t < PartBegin(end); ++t) {
    if (places_[t].buffer == buffer) {
      span.end = places_[t].offset + places_[t].elements;
      if (t < PartBegin(begin)) {
        span.begin = span.end;
      }
    }
  }
  return span;
}

int64_t Layout::total_bytes() const {
  int64_t total = 0;
  for (int i = 0; i < buffers(); ++i) {
    total += bytes(i);
  }
  return total;
}

Buffers::Buffers(std::shared_ptr<const Layout> layout)
    : layout_(std::move(layout)) {
  for (int i = 0; i < layout_->buffers(); ++i) {
    memory_.emplace_back(new char[std::max<int64_t>(layout_->bytes(i), 1)]);
  }
}

void Buffers::Zero(int begin, int end) {
  for (int i = 0; i < layout_->buffers(); ++i) {
    const auto span = layout_->PartsIn(i, begin, end);
    const int64_t bytes = DTypeBytes(layout_->storage(i));
    std::memset(memory_[i].get() + span.begin * bytes, 0,
                (span.end - span.begin) * bytes);
  }
}

void Buffers::CopyIn(const std::vector<const void*>& tensors, size_t first) {
  for (size_t t = 0; t < tensors.size(); ++t) {
    const auto& place = layout_->place(first + t);
    const DType dtype = layout_->dtype(place.buffer);
    char* to = memory_[place.buffer].get() +
               place.offset * DTypeBytes(StorageType(dtype));
    if (dtype == DType::kBFloat16) {
      auto* from = static_cast<const uint16_t*>(tensors[t]);
      std::transform(from, from + place.elements,
                     reinterpret_cast<float*>(to), BFloatToFloat);
    } else if (place.elements > 0) {
      std::memcpy(to, tensors[t], place.elements * DTypeBytes(dtype));
    }
  }
}

void Buffers::AddIn(const std::vector<const void*>& tensors, size_t first) {
  for (size_t t = 0; t < tensors.size(); ++t) {
    const auto& place = layout_->place(first + t);
    const DType dtype = layout_->dtype(place.buffer);
    char* to = memory_[place.buffer].get() +
               place.offset * DTypeBytes(StorageType(dtype));
    if (dtype == DType::kBFloat16) {
      auto* from = static_cast<const uint16_t*>(tensors[t]);
      auto* sum = reinterpret_cast<float*>(to);
      for (int64_t i = 0; i < place.elements; ++i) {
        sum[i] += BFloatToFloat(from[i]);
      }
    } else {
      AddStored(dtype, to, tensors[t], place.elements);
    }
  }
}

void Buffers::Add(const Buffers& other) {
  for (int i = 0; i < layout_->buffers(); ++i) {
    AddStored(layout_->storage(i), memory_[i].get(), other.data(i),
              layout_->elements(i));
  }
}

void Buffers::Scale(double factor, int begin, int end) {
  for (int i = 0; i < layout_->buffers(); ++i) {
    const auto span = layout_->PartsIn(i, begin, end);
    char* values =
        memory_[i].get() + span.begin * DTypeBytes(layout_->storage(i));
    const int64_t n = span.end - span.begin;
    switch (layout_->storage(i)) {
    case DType::kFloat16:
      ScaleHalves(reinterpret_cast<uint16_t*>(values),
                  static_cast<float>(factor), n);
      break;
    case DType::kFloat64:
      ScaleArray(reinterpret_cast<double*>(values), factor, n);
      break;
    default:
      ScaleArray(reinterpret_cast<float*>(values), static_cast<float>(factor),
                 n);
    }
  }
}

void Buffers::CopyOut(const std::vector<void*>& tensors) const {
  for (size_t t = 0; t < layout_->tensors(); ++t) {
    const auto& place = layout_->place(t);
    const DType dtype = layout_->dtype(place.buffer);
    const char* from = memory_[place.buffer].get() +
                       place.offset * DTypeBytes(StorageType(dtype));
    if (dtype == DType::kBFloat16) {
      auto* values = reinterpret_cast<const float*>(from);
      std::transform(values, values + place.elements,
                     static_cast<uint16_t*>(tensors[t]), FloatToBFloat);
    } else if (place.elements > 0) {
      std::memcpy(tensors[t], from, place.elements * DTypeBytes(dtype));
    }
  }
}

std::string Buffers::Save() const {
  std::string bytes;
  for (int i = 0; i < layout_->buffers(); ++i) {
    bytes.append(memory_[i].get(), layout_->bytes(i));
  }
  return bytes;
}

void Buffers::AddSaved(const std::string& bytes) {
  Buffers saved(layout_);
  const char* from = bytes.data();
  for (int i = 0; i < layout_->buffers(); ++i) {
    std::memcpy(saved.data(i), from, layout_->bytes(i));
    from += layout_->bytes(i);
  }
  Add(saved);
}

BufferPool::BufferPool(std::shared_ptr<const Layout> layout)
    : layout_(std::move(layout)), shelf_(std::make_shared<Shelf>()) {}

std::shared_ptr<Buffers> BufferPool::Take() {
  std::unique_ptr<Buffers> buffers;
  if (shelf_->empty()) {
    buffers = std::make_unique<Buffers>(layout_);
  } else {
    buffers = std::move(shelf_->back());
    shelf_->pop_back();
  }
  // The shelf outlives the pool while results are about.
  auto shelf = shelf_;
  return std::shared_ptr<Buffers>(
      buffers.release(),
      [shelf](Buffers* back) { shelf->emplace_back(back); });
}

} // namespace horovod_partial
