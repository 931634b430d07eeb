// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_CORE_BUFFER_H
#define HOROVOD_PARTIAL_CORE_BUFFER_H

#include <memory>
#include <vector>

#include "spec.h"

namespace horovod_partial {

// Where each tensor of a group lies: one flat buffer per dtype, tensors one
// after the other in the group's order, as Horovod's fusion buffer has them.
class Layout {
public:
  struct Place {
    int buffer;
    int64_t offset; // elements
    int64_t elements;
  };

  // A stretch of one buffer, in elements.
  struct Span {
    int64_t begin;
    int64_t end;
  };

  explicit Layout(const std::vector<TensorSpec>& tensors,
                  const std::vector<int32_t>& parts = {});

  size_t tensors() const { return places_.size(); }
  const Place& place(size_t tensor) const { return places_[tensor]; }
  int buffers() const { return static_cast<int>(dtypes_.size()); }
  DType dtype(int buffer) const { return dtypes_[buffer]; }
  DType storage(int buffer) const { return StorageType(dtypes_[buffer]); }
  int64_t elements(int buffer) const { return elements_[buffer]; }
  int64_t total_bytes() const;
  // Parts are consecutive tensors. The first tensor of a part; for the part
  // after the last one, the number of tensors.
  size_t PartBegin(int part) const { return part_begins_[part]; }
  int parts() const { return static_cast<int>(part_begins_.size()) - 1; }
  // Where the parts from `begin` up to `end` lie in a buffer.
  Span PartsIn(int buffer, int begin, int end) const;
  int64_t bytes(int buffer) const {
    return elements_[buffer] * DTypeBytes(storage(buffer));
  }

private:
  std::vector<Place> places_;
  std::vector<DType> dtypes_;
  std::vector<int64_t> elements_;
  std::vector<size_t> part_begins_;
};

// One value for each tensor of a group, in the layout's flat buffers. The
// tensors that come and go are dense arrays in the dtypes of the group.
class Buffers {
public:
  explicit Buffers(std::shared_ptr<const Layout> layout);

  void* data(int buffer) { return memory_[buffer].get(); }
  const void* data(int buffer) const { return memory_[buffer].get(); }
  const Layout& layout() const { return *layout_; }

  // Of the parts from `begin` up to `end`.
  void Zero(int begin, int end);
  void Scale(double factor, int begin, int end);
  // `tensors` are consecutive ones of the group, from the given one on.
  void CopyIn(const std::vector<const void*>& tensors, size_t first = 0);
  void AddIn(const std::vector<const void*>& tensors, size_t first = 0);
  void Add(const Buffers& other);
  void CopyOut(const std::vector<void*>& tensors) const;

  // The bytes of all buffers, for a checkpoint, and back: `bytes` are
  // Layout::total_bytes.
  std::string Save() const;
  void AddSaved(const std::string& bytes);

private:
  std::shared_ptr<const Layout> layout_;
  std::vector<std::unique_ptr<char[]>> memory_;
};

// Hands out the buffers that hold results, and takes them back when the last
// reference goes. It keeps what has come back, so that rounds allocate nothing
// once a rank has been as late as it gets.
class BufferPool {
public:
  explicit BufferPool(std::shared_ptr<const Layout> layout);

  std::shared_ptr<Buffers> Take();

private:
  using Shelf = std::vector<std::unique_ptr<Buffers>>;

  std::shared_ptr<const Layout> layout_;
  std::shared_ptr<Shelf> shelf_;
};

} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_CORE_BUFFER_H
