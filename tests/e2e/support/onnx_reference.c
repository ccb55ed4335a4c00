/* onnx_reference.c - see onnx_reference.h */
#include "tests/e2e/support/onnx_reference.h"

#include "runtime-min/mi_array.h"

#include <math.h>

#define CASES MICC_SHARED_DIR "/reference/onnxruntime"

const OnnxReference onnx_references[] = {
    {.name = "basic-pitch", .model = "onnx+tflite-basic-pitch/nmp.onnx"},
    {.name = "dtln-1", .model = "onnx+tflite-dtln/model_1.onnx"},
    {.name = "dtln-2", .model = "onnx+tflite-dtln/model_2.onnx"},
    {.name = "gtcrn-simple", .model = "onnx-gtcrn/gtcrn_simple.onnx"},
    {.name = "magika-fast-v2-1", .model = "onnx-magika/assets/models/fast_v2_1/model.onnx"},
    {.name = "magika-standard-v3-3", .model = "onnx-magika/assets/models/standard_v3_3/model.onnx"},
    {.name = "micro-kws-fp32", .model = "onnx-micro-kws/micro_kws_m_static_fp32.onnx"},
    /* ONNX Runtime's int8 kernels round elsewhere than the model says (without its optimiser it gives what we do): a step
     * of a logit is three steps of a probability, which are 1/255. */
    {.name = "micro-kws-qdq", .model = "onnx-micro-kws/micro_kws_m_qdq.onnx", .absolute = 3.01 / 255},
    {.name = "mlperf-tiny-resnet8", .model = "tflite+onnx-mlperf-tiny/onnx/pretrainedResnet.onnx"},
    {.name = "mlperf-tiny-vww-float",
     .model = "tflite+onnx-mlperf-tiny/onnx/vww/VCU128/models/vww_96_float.onnx"},
    {.name = "mnist-cntk", .model = "onnx-winml/mnist.onnx"},
    {.name = "silero-vad-16k-op15", .model = "onnx-silero-vad/silero_vad_16k_op15.onnx"},
    {.name = "silero-vad-op18-ifless", .model = "onnx-silero-vad/silero_vad_op18_ifless.onnx"},
    {.name = "silero-vad-openvino-16k", .model = "onnx-silero-vad/silero_vad_openvino_16k.onnx"},
    {.name = "silero-vad", .model = "onnx-silero-vad/silero_vad.onnx", .fix = "sr"},
    {.name = "squeezenet-fp16", .model = "onnx-winml/SqueezeNet_fp16.onnx"},
    {.name = "ultraface-rfb-320-simplified",
     .model = "onnx+tflite-ultraface/version-RFB-320_simplified.onnx"},
    {.name = "ultraface-rfb-320", .model = "onnx+tflite-ultraface/version-RFB-320.onnx"},
    {.name = "ultraface-slim-320", .model = "onnx+tflite-ultraface/version-slim-320.onnx"},
    {.name = "yunet-n-320", .model = "onnx-yunet/yunet_n_320_320.onnx"},
    {.name = "yunet-n-dynamic-160x192", .model = "onnx-yunet/yunet_n_dynamic.onnx"},
};
const uint32_t onnx_reference_count = COUNT(onnx_references);

Tolerance onnx_reference_tolerance(const OnnxReference *r)
{
  return (Tolerance){.relative = 1e-3, .absolute = r->absolute > 0 ? r->absolute : 1e-4};
}

static DType dtype_of(MiElem e)
{
  static const uint8_t types[MI_ELEM_COUNT] = {DT_F32, DT_F16, DT_BF16, DT_F64, DT_I8,  DT_U8,   DT_I16,
                                               DT_U16, DT_I32, DT_U32,  DT_I64, DT_U64, DT_BOOL, DT_U8};
  return (DType)types[e];
}

static bool read_array(const OnnxCase *c, const char *kind, uint32_t i, Tensor *out, Err *e)
{
  const char *path = arena_printf(c->arena, "%s/%s_%u.npy", c->dir, kind, i);
  char line[256];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
  MiArray a;

  if (!mi_array_npy(path, &a, &why))
    return fail(e, "%s", mi_out_string(&why));
  Type t = {.dtype = dtype_of(a.elem), .rank = a.rank};
  for (uint32_t d = 0; d < a.rank; d++)
    t.dim[d] = (int64_t)a.dim[d];
  if (!type_check_dense(&t, e))
    return false;
  *out = tensor_new(c->arena, &t);
  a.data = out->data;
  return mi_array_read(path, &a, &why) || fail(e, "%s", mi_out_string(&why));
}

static bool has_initializer(const OnnxGraph *g, const char *name)
{
  for (uint32_t i = 0; i < g->n_initializers; i++)
    if (!strcmp(g->initializers[i]->name, name))
      return true;
  return false;
}

/* Files are numbered by what the model asks for: inputs with an initialiser (IR version 3) have none. */
static bool read_inputs(OnnxCase *c, Err *e)
{
  const OnnxGraph *g = c->onnx->graph;
  uint32_t file = 0;

  c->n_given = g->n_inputs;
  c->given = NEW_ARRAY(c->arena, Tensor, g->n_inputs);
  for (uint32_t i = 0; i < g->n_inputs; i++)
    if (!has_initializer(g, g->inputs[i]->name) && !read_array(c, "input", file++, &c->given[i], e))
      return false;
  return true;
}

/* Where both branches of an If cannot stand side by side, the importer does not ask for what decides. */
static bool fix_input(OnnxCase *c, const char *name, Err *e)
{
  const OnnxGraph *g = c->onnx->graph;

  c->fix = name;
  for (uint32_t i = 0; name && i < g->n_inputs; i++)
    if (!strcmp(g->inputs[i]->name, name))
      return true;
  return !name || fail(e, "the model has no input '%s'", name);
}

static bool read_outputs(OnnxCase *c, Err *e)
{
  c->n_outputs = c->onnx->graph->n_outputs;
  c->want = NEW_ARRAY(c->arena, Tensor, c->n_outputs);
  for (uint32_t i = 0; i < c->n_outputs; i++)
    if (!read_array(c, "output", i, &c->want[i], e))
      return false;
  return true;
}

bool onnx_reference_open(OnnxCase *c, Arena *a, const OnnxReference *r, Err *e)
{
  *c = (OnnxCase){.arena = a, .dir = arena_printf(a, CASES "/%s", r->name)};
  return onnx_read(arena_printf(a, MICC_SHARED_DIR "/models/%s", r->model), a, &c->onnx, e) &&
         read_inputs(c, e) && fix_input(c, r->fix, e) && onnx_case_import(c, e) && read_outputs(c, e);
}

OnnxDistance onnx_reference_distance(const OnnxCase *c, const Tensor *got, Tolerance tol)
{
  OnnxDistance most = {0};

  for (uint32_t k = 0; k < c->n_outputs; k++)
    for (int64_t i = 0; i < type_count(&c->want[k].type); i++) {
      double want = (double)tensor_get(&c->want[k], i), d = fabs((double)tensor_get(&got[k], i) - want);
      most.absolute = fmax(most.absolute, d);
      if (d > tol.absolute)
        most.relative = fmax(most.relative, d / fabs(want));
    }
  return most;
}
