// The operators of the domain fqonnx as custom operators of ONNX Runtime.

#include <type_traits>

#include "kernel.h"
#include "operators.h"

namespace fqonnx {
namespace {

// Places of the packed inputs behind X, which FrameDequant does not have.
enum Input : size_t { kCodes, kScales, kZeroPoints, kSignsIn, kSignsOut, kPackedInputs };

FrameAttributes read_frame(const NodeInfo& node, const std::string& side) {
  FrameAttributes frame;
  frame.kind = node.string(("frame_" + side).c_str());
  frame.dim = node.integer(("dim_" + side).c_str());
  frame.num_vectors = node.integer(("num_vectors_" + side).c_str());
  if (frame.kind == "fusion") frame.subspaces = node.integers(("subspaces_" + side).c_str());
  return frame;
}

Accuracy read_accuracy(const NodeInfo& node) {
  const std::string accuracy = node.string_or("accuracy", "exact");
  if (accuracy != "exact" && accuracy != "fast") {
    throw std::invalid_argument("accuracy \"" + accuracy + "\", expected exact or fast");
  }
  return accuracy == "fast" ? Accuracy::kFast : Accuracy::kExact;
}

Attributes read_attributes(const NodeInfo& node) {
  Attributes attributes;
  const int64_t layout = node.integer("layout");  // of another layout nothing else may be read
  if (layout != 1) {
    throw std::invalid_argument("layout " + std::to_string(layout) + ", this library reads 1");
  }
  const std::string codebook = node.string("codebook");
  if (codebook != "scalar") throw std::invalid_argument("unknown codebook \"" + codebook + "\"");
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
  Node(const OrtApi& api, const NodeInfo& info)
      : api_(api), name_(info.name()), operator_(read_attributes(info)) {}

  template <class Element>
  void matmul(OrtKernelContext* context) const {
    const RunContext run(api_, context);
    std::vector<int64_t> shape = run.shape(run.input(0));
    const size_t dim_in = operator_.frame_in().dim(), dim_out = operator_.frame_out().dim();
    if (shape.empty() || shape.back() != int64_t(dim_in)) {
      throw std::invalid_argument("the last axis of X is not dim_in, " + std::to_string(dim_in));
    }
    size_t rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= size_t(shape[i]);
    const PackedInputs packed = read_packed(run, 1);
    const OrtValue* bias = run.input(1 + kPackedInputs);
    if (bias != nullptr) expect(run, bias, {dim_out}, "bias");
    const std::vector<size_t>& splits = operator_.splits();
    if (run.output_count() != splits.size()) {
      throw std::invalid_argument("it has " + std::to_string(run.output_count()) +
                                  " outputs, expected " + std::to_string(splits.size()));
    }
    std::vector<Element*> outputs;
    for (const size_t columns : splits) {
      shape.back() = int64_t(columns);
      outputs.push_back(run.output<Element>(outputs.size(), shape));
    }
    SessionThreads threads(api_, context);
    operator_.matmul(run.data<Element>(run.input(0)), rows, packed,
                     bias ? run.data<Element>(bias) : nullptr, outputs, threads);
  }

  template <class Element>
  void dequantize(OrtKernelContext* context) const {
    const RunContext run(api_, context);
    const size_t dim_in = operator_.frame_in().dim(), dim_out = operator_.frame_out().dim();
    SessionThreads threads(api_, context);
    const PackedInputs packed = read_packed(run, 0);
    operator_.dequantize(packed, run.output<Element>(0, {int64_t(dim_in), int64_t(dim_out)}),
                         threads);
  }

  template <class Compute>
  OrtStatus* guard(const Compute& compute) const noexcept {
    return guarded(api_, name_, compute);
  }

 private:
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

  PackedInputs read_packed(const RunContext& run, size_t first) const {
    const size_t rows = operator_.frame_out().num_vectors();
    const OrtValue *codes = run.input(first + kCodes), *scales = run.input(first + kScales);
    const OrtValue* zero_points = run.input(first + kZeroPoints);
    expect(run, codes, {rows, operator_.blocks(), operator_.block_bytes()}, "codes");
    expect(run, scales, {rows, operator_.groups()}, "scales");
    if (zero_points) expect(run, zero_points, {rows, operator_.groups()}, "zero_points");
    return {run.data<uint8_t>(codes), run.data<uint16_t>(scales),
            zero_points ? run.data<uint8_t>(zero_points) : nullptr,
            read_signs(run, first + kSignsIn, operator_.frame_in(), "signs_in"),
            read_signs(run, first + kSignsOut, operator_.frame_out(), "signs_out")};
  }

  const OrtApi& api_;
  std::string name_;
  FrameOperator operator_;
};

template <ONNXTensorElementDataType type>
using ElementOf =
    std::conditional_t<type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, float, uint16_t>;

// What every operator shares, for one type of activations or weights.
struct CustomOp : OrtCustomOp {
  explicit CustomOp(const OrtApi* api) : OrtCustomOp{}, api(api) {
    version = kApiVersion;
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* {
      return "CPUExecutionProvider";
    };
    GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info,
                        void** kernel) -> OrtStatus* {
      const NodeInfo node(*api, info);
      std::string name;
      if (OrtStatus* status = guarded(*api, "fqonnx", [&] { name = node.name(); })) return status;
      return guarded(*api, name, [&] { *kernel = new Node(*api, node); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Node*>(kernel); };
  }

  const OrtApi* api;
};

ONNXTensorElementDataType packed_type(size_t index) {
  return index == kScales ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                          : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
}

OrtCustomOpInputOutputCharacteristic optional_from(size_t index, size_t first) {
  return index < first ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
}

template <ONNXTensorElementDataType type>
struct FrameMatMulOp : CustomOp {
  explicit FrameMatMulOp(const OrtApi* api) : CustomOp(api) {
    GetName = [](const OrtCustomOp*) -> const char* { return "FrameMatMul"; };
    GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kPackedInputs + 2; };
    GetInputType = [](const OrtCustomOp*, size_t index) {
      return index == 0 || index == kPackedInputs + 1 ? type : packed_type(index - 1);
    };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
      return optional_from(index, 1 + kZeroPoints);
    };
    GetOutputType = [](const OrtCustomOp*, size_t) { return type; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_VARIADIC; };
    GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const Node& node = *static_cast<const Node*>(kernel);
      return node.guard([&] { node.matmul<ElementOf<type>>(context); });
    };
  }
};

// No input tells the type of W: the attribute does.
OrtStatus* infer_dequantized(const OrtApi& api, const OrtShapeInferContext* context) {
  const auto read = [&](const char* name) {
    const OrtOpAttr* attribute;
    check(api, api.ShapeInferContext_GetAttribute(context, name, &attribute));
    int64_t value = 0;
    size_t size;
    check(api, api.ReadOpAttr(attribute, ORT_OP_ATTR_INT, &value, sizeof value, &size));
    return value;
  };
  OrtTensorTypeAndShapeInfo* info = nullptr;
  OrtStatus* status = guarded(api, "FrameDequant", [&] {
    const int64_t shape[] = {read("dim_in"), read("dim_out")};
    const int64_t type = read("dtype");
    if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT &&
        type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) {
      throw std::invalid_argument("dtype " + std::to_string(type) + ", expected 1 or 10");
    }
    check(api, api.CreateTensorTypeAndShapeInfo(&info));
    check(api, api.SetTensorElementType(info, ONNXTensorElementDataType(type)));
    check(api, api.SetDimensions(info, shape, 2));
    check(api, api.ShapeInferContext_SetOutputTypeShape(context, 0, info));
  });
  if (info != nullptr) api.ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

template <ONNXTensorElementDataType type>
struct FrameDequantOp : CustomOp {
  explicit FrameDequantOp(const OrtApi* api) : CustomOp(api) {
    GetName = [](const OrtCustomOp*) -> const char* { return "FrameDequant"; };
    GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kPackedInputs; };
    GetInputType = [](const OrtCustomOp*, size_t index) { return packed_type(index); };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
      return optional_from(index, kZeroPoints);
    };
    GetOutputType = [](const OrtCustomOp*, size_t) { return type; };
    InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
      return infer_dequantized(*static_cast<const FrameDequantOp*>(op)->api, context);
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const Node& node = *static_cast<const Node*>(kernel);
      return node.guard([&] { node.dequantize<ElementOf<type>>(context); });
    };
  }
};

OrtCustomOpDomain* make_domain(const OrtApi* api) {
  static const FrameMatMulOp<ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT> matmul(api);
  static const FrameMatMulOp<ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16> matmul_float16(api);
  static const FrameDequantOp<ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT> dequant(api);
  static const FrameDequantOp<ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16> dequant_float16(api);
  const OrtCustomOp* const ops[] = {&matmul, &matmul_float16, &dequant, &dequant_float16};
  OrtCustomOpDomain* domain;
  check(*api, api->CreateCustomOpDomain("fqonnx", &domain));
  for (const OrtCustomOp* op : ops) check(*api, api->CustomOpDomain_Add(domain, op));
  return domain;
}

}  // namespace
}  // namespace fqonnx

#define FQONNX_EXPORT extern "C" __attribute__((visibility("default")))

// ONNX Runtime looks for this name.
FQONNX_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace fqonnx;
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) {  // there is no API to make a status with: one that is always there
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "fqonnx needs ONNX Runtime 1.17 or later");
  }
  return guarded(*api, "fqonnx", [&] {
    // Sessions hold a pointer to the domain, which lives as long as the library.
    static OrtCustomOpDomain* const domain = make_domain(api);
    check(*api, api->AddCustomOpDomain(options, domain));
  });
}

// The instruction set that the kernels use here, for `fqonnx doctor`.
FQONNX_EXPORT const char* fqonnx_instruction_set() { return fqonnx::kernels().name; }
