#include "frames.h"

#include <utility>

namespace fqonnx {
namespace {

uint32_t inverse_modulo(uint32_t stride, uint32_t size) {
  int64_t a = stride, b = size, x = 1, y = 0;  // a ≡ x·stride, b ≡ y·stride
  while (b != 0) {
    const int64_t quotient = a / b;
    a -= quotient * b, std::swap(a, b);
    x -= quotient * y, std::swap(x, y);
  }
  return uint32_t((x % int64_t(size) + int64_t(size)) % int64_t(size));
}

}  // namespace

FrameTables::FrameTables(const Frame& frame) {
  using cuda::DeviceFrame;
  frame_.kind = frame.kind_ == Frame::Kind::kHadamard   ? DeviceFrame::kHadamard
                : frame.kind_ == Frame::Kind::kFusion   ? DeviceFrame::kFusion
                : frame.kind_ == Frame::Kind::kHarmonic ? DeviceFrame::kHarmonic
                                                        : DeviceFrame::kIdentity;
  frame_.dim = uint32_t(frame.dim_);
  frame_.num_vectors = uint32_t(frame.num_vectors_);
  frame_.work = uint32_t(frame.padded_);
  frame_.order = uint32_t(frame.order_);
  while (frame_.order >> frame_.log_order > 1) ++frame_.log_order;
  frame_.scale = frame.scale_;
  frame_.stride = frame.places_.size() > 1 ? frame.places_[1] : 1;
  frame_.inverse = frame_.stride > 1 ? inverse_modulo(frame_.stride, frame_.work) : 1;
  frame_.odd = frame.odd_.empty() ? 1 : uint32_t(frame.padded_ / frame.order_);
  odd_matrix_ = add(frame.odd_);
  if (frame_.kind == DeviceFrame::kFusion) add_fusion(frame);
  if (frame_.kind == DeviceFrame::kHarmonic) {
    frame_.n1 = uint32_t(frame.n1_), frame_.n2 = uint32_t(frame.n2_);
    frame_.k2 = uint32_t(frame.k2_);
    frame_.work = 2 * frame_.num_vectors;
    inner_ = add(frame.inner_), outer_ = add(frame.outer_);
    cosines_ = add(frame.cosines_), sines_ = add(frame.sines_);
  }
}

void FrameTables::add_fusion(const Frame& frame) {
  std::vector<cuda::TetrisRow> rows;
  std::vector<uint32_t> first_row(frame.padded_);
  std::vector<float> blocks;
  uint32_t reached = 0;
  for (const Frame::Tetris& row : frame.tetris_) {
    const uint32_t start = uint32_t(row.start), width = uint32_t(row.width);
    for (; reached < start + width; ++reached) first_row[reached] = uint32_t(rows.size());
    rows.push_back({start, width, uint32_t(blocks.size())});
    blocks.insert(blocks.end(), row.block.begin(), row.block.end());
  }
  frame_.vectors_per_row = uint32_t(frame.vectors_per_row_);
  rows.push_back({uint32_t(frame.padded_), 0, 0});  // a row behind the last, which touches nothing
  rows_ = add(rows), first_row_ = add(first_row), blocks_ = add(blocks);
}

cuda::DeviceFrame FrameTables::on_device(const void* bytes) const {
  cuda::DeviceFrame frame = frame_;
  const auto* base = static_cast<const unsigned char*>(bytes);
  const auto floats = [&](size_t offset) { return reinterpret_cast<const float*>(base + offset); };
  frame.odd_matrix = floats(odd_matrix_);
  frame.rows = reinterpret_cast<const cuda::TetrisRow*>(base + rows_);
  frame.first_row = reinterpret_cast<const uint32_t*>(base + first_row_);
  frame.blocks = floats(blocks_);
  frame.inner = floats(inner_), frame.outer = floats(outer_);
  frame.cosines = floats(cosines_), frame.sines = floats(sines_);
  return frame;
}

}  // namespace fqonnx
