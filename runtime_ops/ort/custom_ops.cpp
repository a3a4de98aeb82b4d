// What ONNX Runtime finds in this library: the operators of the domain fqonnx.

#include <string>
#include <type_traits>

#include "custom_op.h"
#ifdef FQONNX_CUDA
#include "cuda_ops.h"
#endif

namespace fqonnx {
namespace {

template <ONNXTensorElementDataType type>
using ElementOf =
    std::conditional_t<type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, float, uint16_t>;

class CpuNode : public Node {
 public:
  static constexpr const char* kProvider = "CPUExecutionProvider";

  CpuNode(const OrtApi& api, const OrtKernelInfo* info) : Node(api, NodeInfo(api, info)) {}

  template <ONNXTensorElementDataType type>
  void matmul(OrtKernelContext* context) const {
    using Element = ElementOf<type>;
    const RunContext run(api_, context);
    const MatmulTensors tensors = read_matmul(run);
    std::vector<Element*> outputs;
    for (OrtValue* output : tensors.outputs) {
      outputs.push_back(static_cast<Element*>(run.mutable_data(output)));
    }
    SessionThreads threads(api_, context);
    operator_.matmul(run.data<Element>(tensors.x), tensors.rows, tensors.packed,
                     tensors.bias ? run.data<Element>(tensors.bias) : nullptr, outputs, threads);
  }

  template <ONNXTensorElementDataType type>
  void dequantize(OrtKernelContext* context) const {
    const RunContext run(api_, context);
    const PackedInputs packed = read_packed(run, 0, kDequantLevels);
    void* const weight = run.mutable_data(run.output(0, weight_shape()));
    SessionThreads threads(api_, context);
    operator_.dequantize(packed, static_cast<ElementOf<type>*>(weight), threads);
  }
};

OrtCustomOpDomain* make_domain(const OrtApi* api, const OrtApiBase* base) {
  static const FrameMatMulOp<CpuNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT> matmul(api);
  static const FrameMatMulOp<CpuNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16> matmul_float16(api);
  static const FrameDequantOp<CpuNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT> dequant(api);
  static const FrameDequantOp<CpuNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16> dequant_float16(api);
  std::vector<const OrtCustomOp*> ops{&matmul, &matmul_float16, &dequant, &dequant_float16};
#ifdef FQONNX_CUDA
  for (const OrtCustomOp* op : cuda_ops(base)) ops.push_back(op);
#else
  (void)base;
#endif
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
    static OrtCustomOpDomain* const domain = make_domain(api, base);
    check(*api, api->AddCustomOpDomain(options, domain));
  });
}

// The instruction set that the kernels use here, for `fqonnx doctor`.
FQONNX_EXPORT const char* fqonnx_instruction_set() { return fqonnx::kernels().name; }

#ifndef FQONNX_CUDA_ARCHITECTURES  // nor has the emulator any
#define FQONNX_CUDA_ARCHITECTURES ""
#define FQONNX_CUDA_TOOLKIT ""
#endif

// What the library asks of a machine, a line each, for those who deploy it.
FQONNX_EXPORT const char* fqonnx_requirements() {
  static const std::string said = "ort_api=" + std::to_string(fqonnx::kApiVersion) +
                                  "\ncuda_architectures=" FQONNX_CUDA_ARCHITECTURES
                                  "\ncuda_toolkit=" FQONNX_CUDA_TOOLKIT;
  return said.c_str();
}
