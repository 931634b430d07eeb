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

  explicit Layout(const std::vector<TensorSpec>& tensors);

  size_t tensors() const { return places_.size(); }
  const Place& place(size_t tensor) const { return places_[tensor]; }
  int buffers() const { return static_cast<int>(dtypes_.size()); }
  DType dtype(int buffer) const { return dtypes_[buffer]; }
  DType storage(int buffer) const { return StorageType(dtypes_[buffer]); }
  int64_t elements(int buffer) const { return elements_[buffer]; }
  int64_t total_bytes() const;
  int64_t bytes(int buffer) const {
    return elements_[buffer] * DTypeBytes(storage(buffer));
  }

private:
  std::vector<Place> places_;
  std::vector<DType> dtypes_;
  std::vector<int64_t> elements_;
};

// One value for each tensor of a group, in the layout's flat buffers. The
// tensors that come and go are dense arrays in the dtypes of the group.
class Buffers {
public:
  explicit Buffers(std::shared_ptr<const Layout> layout);

  void* data(int buffer) { return memory_[buffer].get(); }
  const void* data(int buffer) const { return memory_[buffer].get(); }
  const Layout& layout() const { return *layout_; }

  void Zero();
  void CopyIn(const std::vector<const void*>& tensors);
  void AddIn(const std::vector<const void*>& tensors);
  void Add(const Buffers& other);
  void Scale(double factor);
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
