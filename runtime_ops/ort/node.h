// What a node of an operator is on every device: its attributes, and inputs of the right shapes.
#pragma once

#include "kernel.h"
#include "operators.h"

namespace fqonnx {

// Places of the packed inputs behind X, which FrameDequant does not have. Behind them are the bias
// of a FrameMatMul and, last, the levels of a trellis code.
enum Input : size_t { kCodes, kScales, kZeroPoints, kSignsIn, kSignsOut, kPackedInputs };
constexpr size_t kMatMulLevels = 1 + kPackedInputs + 1, kDequantLevels = kPackedInputs;

inline FrameAttributes read_frame(const NodeInfo& node, const std::string& side) {
  FrameAttributes frame;
  frame.kind = node.string(("frame_" + side).c_str());
  frame.dim = node.integer(("dim_" + side).c_str());
  frame.num_vectors = node.integer(("num_vectors_" + side).c_str());
  if (frame.kind == "fusion") frame.subspaces = node.integers(("subspaces_" + side).c_str());
  return frame;
}

inline Accuracy read_accuracy(const NodeInfo& node) {
  const std::string accuracy = node.string_or("accuracy", "exact");
  if (accuracy != "exact" && accuracy != "fast") {
    throw std::invalid_argument("accuracy \"" + accuracy + "\", expected exact or fast");
  }
  return accuracy == "fast" ? Accuracy::kFast : Accuracy::kExact;
}

inline Attributes read_attributes(const NodeInfo& node) {
  Attributes attributes;
  const int64_t layout = node.integer("layout");  // of another layout nothing else may be read
  if (layout != 1) {
    throw std::invalid_argument("layout " + std::to_string(layout) + ", this library reads 1");
  }
  const std::string codebook = node.string("codebook");
  if (codebook != "scalar" && codebook != "trellis") {
    throw std::invalid_argument("unknown codebook \"" + codebook + "\"");
  }
  attributes.trellis = codebook == "trellis";
  attributes.multiplier = attributes.trellis ? node.integer("multiplier") : 0;
  attributes.frame_in = read_frame(node, "in");
  attributes.frame_out = read_frame(node, "out");
  attributes.bits = node.integer("bits");
  attributes.block_size = node.integer("block_size");
  attributes.group_size = node.integer("group_size");
  attributes.accuracy = read_accuracy(node);
  attributes.splits = node.integers("splits");
  return attributes;
}

// One node of a session.
class Node {
 public:
  template <class Compute>
  OrtStatus* guard(const Compute& compute) const noexcept {
    return guarded(api_, name_, compute);
  }

 protected:
  Node(const OrtApi& api, const NodeInfo& info)
      : api_(api), name_(info.name()), attributes_(read_attributes(info)), operator_(attributes_) {}

  struct MatmulTensors {
    size_t rows;
    const OrtValue* x;
    PackedInputs packed;
    const OrtValue* bias;
    std::vector<OrtValue*> outputs;  // (..., splits[i])
  };
  MatmulTensors read_matmul(const RunContext& run) const {
    MatmulTensors tensors{1, run.input(0), {}, run.input(1 + kPackedInputs), {}};
    std::vector<int64_t> shape = run.shape(tensors.x);
    const size_t dim_in = operator_.frame_in().dim(), dim_out = operator_.frame_out().dim();
    if (shape.empty() || shape.back() != int64_t(dim_in)) {
      throw std::invalid_argument("the last axis of X is not dim_in, " + std::to_string(dim_in));
    }
    for (size_t i = 0; i + 1 < shape.size(); ++i) tensors.rows *= size_t(shape[i]);
    tensors.packed = read_packed(run, 1, kMatMulLevels);
    if (tensors.bias != nullptr) expect(run, tensors.bias, {dim_out}, "bias");
    const std::vector<size_t>& splits = operator_.splits();
    if (run.output_count() != splits.size()) {
      throw std::invalid_argument("it has " + std::to_string(run.output_count()) +
                                  " outputs, expected " + std::to_string(splits.size()));
    }
    for (const size_t columns : splits) {
      shape.back() = int64_t(columns);
      tensors.outputs.push_back(run.output(tensors.outputs.size(), shape));
    }
    return tensors;
  }

  std::vector<int64_t> weight_shape() const {
    return {int64_t(operator_.frame_in().dim()), int64_t(operator_.frame_out().dim())};
  }

  void expect(const RunContext& run, const OrtValue* value, const std::vector<size_t>& shape,
              const char* name) const {
    if (value == nullptr) throw std::invalid_argument(std::string("no input ") + name);
    const std::vector<int64_t> found = run.shape(value);
    bool equal = found.size() == shape.size();
    for (size_t i = 0; equal && i < shape.size(); ++i) equal = found[i] == int64_t(shape[i]);
    if (equal) return;
    std::string message = std::string("the input ") + name + " has the shape (";
    for (const int64_t size : found) message += std::to_string(size) + ",";
    message += "), expected (";
    for (const size_t size : shape) message += std::to_string(size) + ",";
    throw std::invalid_argument(message + ")");
  }

  const uint8_t* read_signs(const RunContext& run, size_t index, const Frame& frame,
                            const char* name) const {
    if (!frame.has_signs()) return nullptr;
    const OrtValue* value = run.input(index);
    expect(run, value, {(frame.dim() + 7) / 8}, name);
    return run.data<uint8_t>(value);
  }

  PackedInputs read_packed(const RunContext& run, size_t first, size_t levels_index) const {
    const size_t rows = operator_.frame_out().num_vectors();
    const OrtValue *codes = run.input(first + kCodes), *scales = run.input(first + kScales);
    const OrtValue* zero_points = run.input(first + kZeroPoints);
    const OrtValue* levels = run.input(levels_index);
    expect(run, codes, {operator_.code_rows(), operator_.blocks(), operator_.block_bytes()},
           "codes");
    expect(run, scales, {rows, operator_.groups()}, "scales");
    if (zero_points) expect(run, zero_points, {rows, operator_.groups()}, "zero_points");
    if (operator_.is_trellis()) {
      expect(run, levels, {kLevels}, "levels");
      if (zero_points) throw std::invalid_argument("a trellis code has no zero_points");
    } else if (levels) {
      throw std::invalid_argument("scalar codes have no levels");
    }
    return {run.data<uint8_t>(codes), run.data<uint16_t>(scales),
            zero_points ? run.data<uint8_t>(zero_points) : nullptr,
            read_signs(run, first + kSignsIn, operator_.frame_in(), "signs_in"),
            read_signs(run, first + kSignsOut, operator_.frame_out(), "signs_out"),
            levels ? run.data<int8_t>(levels) : nullptr};
  }

  const OrtApi& api_;
  std::string name_;
  Attributes attributes_;
  FrameOperator operator_;
};

}  // namespace fqonnx
