#include "operators.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "scratch.h"

namespace fqonnx {
namespace {

constexpr size_t kDirectOutputs = 64;  // of a task
constexpr size_t kPanelRows = 192;     // of activations that share a panel
constexpr size_t kMaxSplits = 64;
constexpr size_t kMostTrellisColumns = 1 << 16;  // whose products, below 2^15, 32 bits can add
constexpr size_t kMaxRows = 4096;      // at once, which bounds the memory that threads keep

const float* as_floats(const Kernels&, const float* x, size_t, float*) { return x; }
const float* as_floats(const Kernels& kernels, const uint16_t* x, size_t size, float* buffer) {
  kernels.to_float(x, size, buffer);
  return buffer;
}
void add_bias(const Kernels&, float* y, const float* bias, size_t size, float*) {
  for (size_t i = 0; i < size; ++i) y[i] += bias[i];
}
void add_bias(const Kernels& kernels, float* y, const uint16_t* bias, size_t size, float* buffer) {
  kernels.to_float(bias, size, buffer);
  for (size_t i = 0; i < size; ++i) y[i] += buffer[i];
}
void store(const Kernels&, const float* x, size_t size, float* out) {
  if (x != out) std::copy(x, x + size, out);
}
void store(const Kernels& kernels, const float* x, size_t size, uint16_t* out) {
  kernels.to_half(x, size, out);
}

// Outputs that lie together, and where their values go: (rows, weight.rows).
struct Part {
  PackedWeight weight;
  float* y;
};

void multiply(const Kernels& kernels, const std::vector<Part>& parts, const Activations& x,
              ThreadPool& pool) {
  struct Task {
    const Part* part;
    size_t first, last;
  };
  const size_t step = x.direct ? kDirectOutputs : kernels.panel;
  std::vector<Task> tasks;
  for (const Part& part : parts) {
    for (size_t first = 0; first < part.weight.rows; first += step) {
      tasks.push_back({&part, first, std::min(first + step, part.weight.rows)});
    }
  }
  if (x.direct) {
    pool.run(tasks.size(), [&](size_t i) {
      const auto& [part, first, last] = tasks[i];
      kernels.multiply_direct(part->weight, x, first, last, part->y);
    });
  } else {
    pool.run(tasks.size() * ((x.rows + kPanelRows - 1) / kPanelRows), [&](size_t i) {
      const auto& [part, first, last] = tasks[i % tasks.size()];
      const size_t row = i / tasks.size() * kPanelRows;
      kernels.multiply_panels(part->weight, x, row, std::min(row + kPanelRows, x.rows), first, last,
                              part->y);
    });
  }
}

void refuse(const std::string& what) { throw std::invalid_argument(what); }

void check_scalar(const Attributes& a) {
  if (a.block_size != 16 && a.block_size != 32 && a.block_size != 64 && a.block_size != 128) {
    refuse("block_size " + std::to_string(a.block_size) + ", expected 16, 32, 64 or 128");
  }
  if (a.group_size != 0 && a.group_size != 128) {
    refuse("group_size " + std::to_string(a.group_size) + ", expected 0 or 128");
  }
}

void check_trellis(const Attributes& a) {
  if (a.block_size != int64_t(kTileOutputs * kTileColumns)) {
    refuse("block_size " + std::to_string(a.block_size) + " of a trellis code, expected 256");
  }
  if (a.group_size != 0) refuse("group_size " + std::to_string(a.group_size) + ", expected 0");
  if (a.multiplier < 0 || a.multiplier > 0xffff) {
    refuse("multiplier " + std::to_string(a.multiplier) + ", expected 16 bits");
  }
  for (size_t i = 0; i + 1 < a.splits.size(); ++i) {
    if (a.splits[i] % int64_t(kTileOutputs) != 0) {
      refuse("splits of a trellis code must be multiples of 64, but for the last");
    }
  }
}
}  // namespace

FrameOperator::FrameOperator(const Attributes& a)
    : frame_in_(a.frame_in),
      frame_out_(a.frame_out),
      bits_(size_t(a.bits)),
      block_size_(size_t(a.block_size)),
      group_size_(size_t(a.group_size)),
      trellis_(a.trellis),
      multiplier_(uint16_t(a.multiplier)),
      accuracy_(a.accuracy) {
  if (a.bits < 1 || a.bits > 4) refuse("bits " + std::to_string(a.bits) + ", expected 1 to 4");
  a.trellis ? check_trellis(a) : check_scalar(a);
  int64_t rest = a.frame_out.dim;
  for (const int64_t columns : a.splits) {
    if (columns < 1 || columns > rest) break;
    splits_.push_back(size_t(columns));
    rest -= columns;
  }
  if (a.splits.empty()) {
    splits_.push_back(frame_out_.dim());
  } else if (rest != 0 || splits_.size() != a.splits.size() || splits_.size() > kMaxSplits ||
             !frame_out_.is_identity()) {
    refuse("splits must be at most 64, positive, sum to dim_out and have no frame_out");
  }
}

size_t FrameOperator::code_rows() const {
  const size_t rows = frame_out_.num_vectors();
  return trellis_ ? (rows + kTileOutputs - 1) / kTileOutputs : rows;
}
size_t FrameOperator::blocks() const {
  const size_t columns = trellis_ ? kTileColumns : block_size_;
  return (frame_in_.num_vectors() + columns - 1) / columns;
}
size_t FrameOperator::block_bytes() const { return block_size_ * bits_ / 8; }
size_t FrameOperator::groups() const { return packed({}).groups(); }

PackedWeight FrameOperator::packed(const PackedInputs& inputs) const {
  return {inputs.codes,
          inputs.scales,
          inputs.zero_points,
          frame_out_.num_vectors(),
          frame_in_.num_vectors(),
          bits_,
          block_size_,
          group_size_,
          trellis_ ? inputs.levels : nullptr,
          multiplier_};
}

template <class Element>
void FrameOperator::matmul(const Element* x, size_t rows, const PackedInputs& inputs,
                           const Element* bias, std::vector<Element*> outputs,
                           ThreadPool& pool) const {
  while (rows > 0) {
    const size_t part = std::min(rows, kMaxRows);
    matmul_part(x, part, inputs, bias, outputs, pool);
    rows -= part;
    x += part * frame_in_.dim();
    for (size_t i = 0; i < splits_.size(); ++i) outputs[i] += part * splits_[i];
  }
}

template <class Element>
void FrameOperator::matmul_part(const Element* x, size_t rows, const PackedInputs& inputs,
                                const Element* bias, const std::vector<Element*>& outputs,
                                ThreadPool& pool) const {
  const Kernels& kernels = fqonnx::kernels();
  const PackedWeight weight = packed(inputs);
  const size_t dim_in = frame_in_.dim(), dim_out = frame_out_.dim();

  Activations activations{};
  activations.rows = rows;
  activations.columns = weight.columns;
  activations.digits = accuracy_ == Accuracy::kExact ? 3 : 1;
  // A row has one scale where its coefficients are of one size, whatever x is.
  const bool overflows = trellis_ && weight.columns > kMostTrellisColumns;
  activations.segment_size =
      weight.group_size || !frame_in_.spreads() || overflows ? kSegment : 0;
  kernels.plan(weight, activations);
  const size_t segments = activations.segments();
  const size_t digits = activations.planes * activations.digits;
  thread_local Scratch integers, scales, sums, coefficients;
  activations.integers = integers.get<int8_t>(rows, digits * activations.stride);
  activations.scales = scales.get<float>(rows, segments);
  activations.sums = sums.get<double>(rows, segments);

  pool.run(rows, [&](size_t row) {
    thread_local Scratch scratch;
    float* buffer = scratch.get<float>(dim_in + weight.columns + frame_in_.scratch_size());
    const float* from = as_floats(kernels, x + row * dim_in, dim_in, buffer);
    if (!frame_in_.is_identity()) {
      float* coeffs = buffer + dim_in;
      frame_in_.analyse(kernels, from, inputs.signs_in, coeffs, coeffs + weight.columns);
      from = coeffs;
    }
    kernels.quantize(weight, from, row, activations);
  });

  // Sums go straight to the outputs where they are their values.
  const bool direct = std::is_same_v<Element, float> && frame_out_.is_identity();
  float* product = direct ? nullptr : coefficients.get<float>(rows, weight.rows);
  std::vector<Part> parts;
  if (direct) {
    for (size_t i = 0, first = 0; i < splits_.size(); first += splits_[i++]) {
      parts.push_back({weight.part(first, splits_[i]), reinterpret_cast<float*>(outputs[i])});
    }
  } else {
    parts.push_back({weight, product});
  }
  multiply(kernels, parts, activations, pool);

  if (direct && bias == nullptr) return;
  pool.run(rows, [&](size_t row) {
    thread_local Scratch scratch;
    float* buffer = scratch.get<float>(2 * dim_out + frame_out_.scratch_size());
    float* values = direct ? nullptr : product + row * weight.rows;
    if (!frame_out_.is_identity()) {
      frame_out_.synthesise(kernels, values, inputs.signs_out, buffer, buffer + 2 * dim_out);
      values = buffer;
    }
    for (size_t i = 0, first = 0; i < splits_.size(); first += splits_[i++]) {
      Element* y = outputs[i] + row * splits_[i];
      float* out = direct ? reinterpret_cast<float*>(y) : values + first;
      if (bias != nullptr) add_bias(kernels, out, bias + first, splits_[i], buffer + dim_out);
      store(kernels, out, splits_[i], y);
    }
  });
}

template <class Element>
void FrameOperator::dequantize(const PackedInputs& inputs, Element* out, ThreadPool& pool) const {
  const Kernels& kernels = fqonnx::kernels();
  const PackedWeight weight = packed(inputs);
  const size_t dim_in = frame_in_.dim(), dim_out = frame_out_.dim();
  Scratch memory;
  float* columns = memory.get<float>(weight.rows, dim_in);  // T_inᵀ·Ĉ, transposed
  pool.run(weight.rows, [&](size_t row) {
    thread_local Scratch scratch;
    float* column = columns + row * dim_in;
    float* coeffs = scratch.get<float>(weight.columns + frame_in_.scratch_size());
    kernels.dequantize_row(weight, row, frame_in_.is_identity() ? column : coeffs);
    if (frame_in_.is_identity()) return;
    frame_in_.synthesise(kernels, coeffs, inputs.signs_in, column, coeffs + weight.columns);
  });
  pool.run(dim_in, [&](size_t row) {
    thread_local Scratch scratch;
    float* coeffs = scratch.get<float>(weight.rows + dim_out + frame_out_.scratch_size());
    for (size_t i = 0; i < weight.rows; ++i) coeffs[i] = columns[i * dim_in + row];
    float* result = coeffs;
    if (!frame_out_.is_identity()) {
      result = coeffs + weight.rows;
      frame_out_.synthesise(kernels, coeffs, inputs.signs_out, result, result + dim_out);
    }
    store(kernels, result, dim_out, out + row * dim_out);
  });
}

template void FrameOperator::matmul(const float*, size_t, const PackedInputs&, const float*,
                                    std::vector<float*>, ThreadPool&) const;
template void FrameOperator::matmul(const uint16_t*, size_t, const PackedInputs&, const uint16_t*,
                                    std::vector<uint16_t*>, ThreadPool&) const;
template void FrameOperator::dequantize(const PackedInputs&, float*, ThreadPool&) const;
template void FrameOperator::dequantize(const PackedInputs&, uint16_t*, ThreadPool&) const;

}  // namespace fqonnx
