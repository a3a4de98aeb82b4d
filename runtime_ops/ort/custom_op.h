// The operators as ONNX Runtime's custom operators. A DeviceNode is a Node with a kProvider that
// computes: matmul<type>(context) and dequantize<type>(context).
#pragma once

#include "node.h"

namespace fqonnx {

// What every operator shares, for one device and one type of activations or weights.
template <class DeviceNode>
struct CustomOp : OrtCustomOp {
  explicit CustomOp(const OrtApi* api) : OrtCustomOp{}, api(api) {
    version = kApiVersion;
    GetExecutionProviderType = [](const OrtCustomOp*) { return DeviceNode::kProvider; };
    GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info,
                        void** kernel) -> OrtStatus* {
      const OrtApi& api = *static_cast<const CustomOp*>(op)->api;  // maybe of a later version
      std::string name;
      if (OrtStatus* status = guarded(api, "fqonnx", [&] { name = NodeInfo(api, info).name(); })) {
        return status;
      }
      return guarded(api, name, [&] { *kernel = new DeviceNode(api, info); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<DeviceNode*>(kernel); };
  }

  const OrtApi* api;
};

inline ONNXTensorElementDataType packed_type(size_t index) {
  if (index >= kPackedInputs) return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;  // levels
  return index == kScales ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                          : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
}

inline OrtCustomOpInputOutputCharacteristic optional_from(size_t index, size_t first) {
  return index < first ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
}

template <class DeviceNode, ONNXTensorElementDataType type>
struct FrameMatMulOp : CustomOp<DeviceNode> {
  explicit FrameMatMulOp(const OrtApi* api) : CustomOp<DeviceNode>(api) {
    this->GetName = [](const OrtCustomOp*) -> const char* { return "FrameMatMul"; };
    this->GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kMatMulLevels + 1; };
    this->GetInputType = [](const OrtCustomOp*, size_t index) {
      return index == 0 || index == kPackedInputs + 1 ? type : packed_type(index - 1);
    };
    this->GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
      return optional_from(index, 1 + kZeroPoints);
    };
    this->GetOutputType = [](const OrtCustomOp*, size_t) { return type; };
    this->GetOutputCharacteristic = [](const OrtCustomOp*, size_t) {
      return INPUT_OUTPUT_VARIADIC;
    };
    this->GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
    this->GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    this->KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const DeviceNode& node = *static_cast<const DeviceNode*>(kernel);
      return node.guard([&] { node.template matmul<type>(context); });
    };
  }
};

// Whether the operators of this library have an ONNX data type.
inline bool is_supported(int64_t type) {
#ifdef FQONNX_CUDA
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16) return true;
#endif
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ||
         type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
}

// No input tells the type of W: the attribute does.
inline OrtStatus* infer_dequantized(const OrtApi& api, const OrtShapeInferContext* context) {
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
    if (!is_supported(type)) {
      throw std::invalid_argument("dtype " + std::to_string(type) + ", which it has no kernel for");
    }
    check(api, api.CreateTensorTypeAndShapeInfo(&info));
    check(api, api.SetTensorElementType(info, ONNXTensorElementDataType(type)));
    check(api, api.SetDimensions(info, shape, 2));
    check(api, api.ShapeInferContext_SetOutputTypeShape(context, 0, info));
  });
  if (info != nullptr) api.ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

template <class DeviceNode, ONNXTensorElementDataType type>
struct FrameDequantOp : CustomOp<DeviceNode> {
  explicit FrameDequantOp(const OrtApi* api) : CustomOp<DeviceNode>(api) {
    this->GetName = [](const OrtCustomOp*) -> const char* { return "FrameDequant"; };
    this->GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kDequantLevels + 1; };
    this->GetInputType = [](const OrtCustomOp*, size_t index) { return packed_type(index); };
    this->GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
      return optional_from(index, kZeroPoints);
    };
    this->GetOutputType = [](const OrtCustomOp*, size_t) { return type; };
    this->InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
      return infer_dequantized(*static_cast<const FrameDequantOp*>(op)->api, context);
    };
    this->KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const DeviceNode& node = *static_cast<const DeviceNode*>(kernel);
      return node.guard([&] { node.template dequantize<type>(context); });
    };
  }
};

}  // namespace fqonnx
