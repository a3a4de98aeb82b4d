// The part of ONNX Runtime's C API that the adapter uses, for builds without its headers, which no
// Python package brings. The table only ever grows at its end, so that places in it are fixed; the
// names are those of onnxruntime_c_api.h, and the adapter compiles against either.
#pragma once

#include <cstddef>
#include <cstdint>

#define ORT_API_VERSION 17
#define ORT_API_CALL

extern "C" {

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtOpAttr;
struct OrtAllocator;
struct OrtMemoryInfo;
struct OrtCustomOp;

enum OrtErrorCode { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum OrtOpAttrType { ORT_OP_ATTR_INT = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum OrtCustomOpInputOutputCharacteristic {
  INPUT_OUTPUT_REQUIRED = 0,
  INPUT_OUTPUT_OPTIONAL = 1,
  INPUT_OUTPUT_VARIADIC = 2,
};
enum ONNXTensorElementDataType {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 = 3,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 = 16,
};

struct OrtApi {
  OrtStatus* (*CreateStatus)(OrtErrorCode code, const char* message);
  void* _1[1];
  const char* (*GetErrorMessage)(const OrtStatus* status);
  void* _3[23];
  OrtStatus* (*CreateCustomOpDomain)(const char* domain, OrtCustomOpDomain** out);
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const OrtCustomOp* op);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain);
  void* _29[22];
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out);
  void* _52[5];
  OrtStatus* (*CreateTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo** out);
  OrtStatus* (*SetTensorElementType)(OrtTensorTypeAndShapeInfo* info,
                                     ONNXTensorElementDataType type);
  OrtStatus* (*SetDimensions)(OrtTensorTypeAndShapeInfo* info, const int64_t* values, size_t count);
  void* _60[1];
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info, size_t* out);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, int64_t* values,
                              size_t values_length);
  void* _63[2];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value, OrtTensorTypeAndShapeInfo** out);
  void* _66[9];
  OrtStatus* (*AllocatorAlloc)(OrtAllocator* allocator, size_t size, void** out);
  OrtStatus* (*AllocatorFree)(OrtAllocator* allocator, void* memory);
  void* _77[9];
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name,
                                             int64_t* out);
  OrtStatus* (*KernelInfoGetAttribute_string)(const OrtKernelInfo* info, const char* name,
                                              char* out, size_t* size);
  OrtStatus* (*KernelContext_GetInputCount)(const OrtKernelContext* context, size_t* out);
  OrtStatus* (*KernelContext_GetOutputCount)(const OrtKernelContext* context, size_t* out);
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index,
                                       const OrtValue** out);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index,
                                        const int64_t* dimensions, size_t count, OrtValue** out);
  void* _92[1];
  void (*ReleaseStatus)(OrtStatus* status);
  void* _94[5];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);
  void* _100[1];
  void (*ReleaseCustomOpDomain)(OrtCustomOpDomain* domain);
  void* _102[30];
  void (*ReleaseAllocator)(OrtAllocator* allocator);
  void* _133[30];
  OrtStatus* (*KernelInfoGetAttributeArray_int64)(const OrtKernelInfo* info, const char* name,
                                                  int64_t* out, size_t* size);
  void* _164[29];
  OrtStatus* (*KernelContext_GetGPUComputeStream)(const OrtKernelContext* context, void** out);
  OrtStatus* (*GetTensorMemoryInfo)(const OrtValue* value, const OrtMemoryInfo** out);
  void* _195[49];
  OrtStatus* (*KernelInfo_GetNodeName)(const OrtKernelInfo* info, char* out, size_t* size);
  void* _245[8];
  OrtStatus* (*KernelContext_GetAllocator)(const OrtKernelContext* context,
                                           const OrtMemoryInfo* info, OrtAllocator** out);
  void* _254[15];
  OrtStatus* (*ShapeInferContext_GetAttribute)(const OrtShapeInferContext* context,
                                               const char* name, const OrtOpAttr** attribute);
  OrtStatus* (*ShapeInferContext_SetOutputTypeShape)(const OrtShapeInferContext* context,
                                                     size_t index,
                                                     const OrtTensorTypeAndShapeInfo* info);
  void* _271[1];
  OrtStatus* (*ReadOpAttr)(const OrtOpAttr* attribute, OrtOpAttrType type, void* data, size_t size,
                           size_t* out);
  void* _273[1];
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context,
                                          void (*call)(void*, size_t), size_t total,
                                          size_t num_batch, void* data);
  // From here on ONNX Runtime 1.18: there only if GetApi(18) gives a table.
  void* _275[2];
  OrtStatus* (*KernelContext_GetScratchBuffer)(const OrtKernelContext* context,
                                               const OrtMemoryInfo* info, size_t size, void** out);
  OrtStatus* (*KernelInfoGetAllocator)(const OrtKernelInfo* info, OrtMemType type,
                                       OrtAllocator** out);
};

#define FQONNX_AT(entry, place) \
  static_assert(offsetof(OrtApi, entry) == (place) * sizeof(void*), "OrtApi::" #entry)
FQONNX_AT(CreateStatus, 0);
FQONNX_AT(GetErrorMessage, 2);
FQONNX_AT(CreateCustomOpDomain, 26);
FQONNX_AT(GetTensorMutableData, 51);
FQONNX_AT(CreateTensorTypeAndShapeInfo, 57);
FQONNX_AT(GetDimensionsCount, 61);
FQONNX_AT(GetTensorTypeAndShape, 65);
FQONNX_AT(AllocatorAlloc, 75);
FQONNX_AT(KernelInfoGetAttribute_int64, 86);
FQONNX_AT(KernelContext_GetInput, 90);
FQONNX_AT(ReleaseStatus, 93);
FQONNX_AT(ReleaseTensorTypeAndShapeInfo, 99);
FQONNX_AT(ReleaseCustomOpDomain, 101);
FQONNX_AT(ReleaseAllocator, 132);
FQONNX_AT(KernelInfoGetAttributeArray_int64, 163);
FQONNX_AT(KernelContext_GetGPUComputeStream, 193);
FQONNX_AT(KernelInfo_GetNodeName, 244);
FQONNX_AT(KernelContext_GetAllocator, 253);
FQONNX_AT(ShapeInferContext_SetOutputTypeShape, 270);
FQONNX_AT(ReadOpAttr, 272);
FQONNX_AT(KernelContext_ParallelFor, 274);
FQONNX_AT(KernelContext_GetScratchBuffer, 277);
#undef FQONNX_AT

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info);
  const char* (*GetName)(const OrtCustomOp* op);
  const char* (*GetExecutionProviderType)(const OrtCustomOp* op);
  ONNXTensorElementDataType (*GetInputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp* op);
  ONNXTensorElementDataType (*GetOutputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp* op);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  OrtCustomOpInputOutputCharacteristic (*GetInputCharacteristic)(const OrtCustomOp* op,
                                                                 size_t index);
  OrtCustomOpInputOutputCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp* op,
                                                                  size_t index);
  OrtMemType (*GetInputMemoryType)(const OrtCustomOp* op, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp* op);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp* op);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info,
                               void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp* op, OrtShapeInferContext* context);
  int (*GetStartVersion)(const OrtCustomOp* op);
  int (*GetEndVersion)(const OrtCustomOp* op);
};
static_assert(offsetof(OrtCustomOp, GetEndVersion) == 21 * sizeof(void*), "OrtCustomOp");

}  // extern "C"
