/* onnx_verify.c - `micc verify`: what agrees, what does not, and what it says. */
#define _GNU_SOURCE
#include "tests/e2e/support/tiny_scene.h"

#include <sys/stat.h>
#include <unistd.h>

static Proc verify(const char *folder, const char *option)
{
  return TINY_RUN(MICC_EXE, "verify", "tiny.onnx", "--case", folder, option);
}

static void test_verify(void)
{
  TinyOut off = tiny.want;

  mkdir(tiny_at("case"), 0755);
  tiny_write("case/input_0.npy", MI_ELEM_F32, tiny.in.image, "1,2,8,8");
  tiny_write("case/input_1.npy", MI_ELEM_F32, tiny.in.class, "4,1,1");
  Proc p = verify("case", "--backend=llvm");
  tally(!p.status && strstr(p.out, "case has no outputs: compared with the oracle\n") &&
            !strstr(p.out, "DIFFERS"),
        "verify without outputs: the oracle's");
  tiny_write("case/output_0.npy", MI_ELEM_F32, tiny.want.scores, "1,5");
  tiny_write("case/output_1.npy", MI_ELEM_I64, &tiny.want.best, "1");
  tiny_write("case/output_2.npy", MI_ELEM_U8, tiny.want.quantised, "1,4,4,4");
  tiny_write("case/output_3.npy", MI_ELEM_F32, tiny.want.level, "1,4,4,4");
  p = verify("case", "--backend=llvm");
  tally(!p.status && proc_lines(p.out) == 4 && strstr(p.out, "quantised, in steps of 0.0312"),
        "verify with outputs: all agree");
  p = verify("case", "--backend=tcc");
  tally(!p.status && proc_lines(p.out) == 4, "through C too");
  for (int i = 0; i < 64; i += 9)
    off.quantised[i]++, off.level[i] += 0.03125f;
  tiny_write("case/output_2.npy", MI_ELEM_U8, off.quantised, "1,4,4,4");
  tiny_write("case/output_3.npy", MI_ELEM_F32, off.level, "1,4,4,4");
  p = verify("case", "--steps=1");
  if (!tally(!p.status, "one step off is near enough for what is quantised"))
    tiny_show(&p);
  p = verify("case", "--steps=0");
  tally(p.status == 1 && strstr(p.out, "int                      DIFFERS: largest error 1 ") &&
            strstr(p.out, "8 of 64 elements outside") &&
            strstr(p.out, "the graph means something else than the case"),
        "with --steps=0 it is not: exit status 1, what differs is named");
  off.scores[3] += 0.01f;
  tiny_write("case/output_0.npy", MI_ELEM_F32, off.scores, "1,5");
  p = verify("case", "--steps=1");
  tally(p.status == 1 && strstr(p.out, "scores/a                 DIFFERS: largest error 0.01 at [0,3]"),
        "a float that is off is named with its place");
  p = verify("case", "--atol=0.1");
  tally(!p.status, "--atol=0.1 lets it pass");
  tiny_write("case/output_0.npy", MI_ELEM_F32, off.scores, "5,1");
  p = verify("case", "--atol=0.1");
  tally(p.status == 1 && strstr(p.out, "DIFFERS: it is f32[1,5], the case has f32[5,1]"),
        "so is another shape");
  p = verify("case", "--rtol=0");
  tiny_write("case/input_0.npy", MI_ELEM_F32, tiny.in.image, "1,2,4,16");
  p = verify("case", "--rtol=0");
  tally(p.status == 1 && strstr(p.err, "image:0"), "an input of another shape: %s", p.err);
}

/* What the compiled program computes of a node is compared with the oracle's of the same node. */
static void test_first_node(void)
{
  TinyOut other;

  tiny_write("case/input_0.npy", MI_ELEM_F32, tiny.in.image, "1,2,8,8");
  other = tiny.want;
  other.scores[0] += 1;
  tiny_write("case/output_0.npy", MI_ELEM_F32, other.scores, "1,5");
  Proc p = TINY_RUN(MICC_EXE, "verify", "tiny.onnx", "--case", "case", "--rtol=0", "--atol=0", "--steps=0");
  tally(p.status == 1 && strstr(p.out, "first node that differs from the oracle: "),
        "without any tolerance, the first node whose rounding differs: %s",
        strstr(p.out, "first node") ? strstr(p.out, "first node") : p.out);
}

/* ---- models of the shared data */

static const struct {
  const char *name, *model;
} cases[] = {
    {"mnist-cntk", "onnx-winml/mnist.onnx"},
    {"dtln-1", "onnx+tflite-dtln/model_1.onnx"},
    {"micro-kws-qdq", "onnx-micro-kws/micro_kws_m_qdq.onnx"},
    {"micro-kws-fp32", "onnx-micro-kws/micro_kws_m_static_fp32.onnx"},
    {"silero-vad", "onnx-silero-vad/silero_vad.onnx"},
    {"mlperf-tiny-resnet8", "tflite+onnx-mlperf-tiny/onnx/pretrainedResnet.onnx"},
    {"squeezenet-fp16", "onnx-winml/SqueezeNet_fp16.onnx"},
    {"yunet-n-320", "onnx-yunet/yunet_n_320_320.onnx"},
    {"ultraface-slim-320", "onnx+tflite-ultraface/version-slim-320.onnx"},
    {"magika-standard-v3-3", "onnx-magika/assets/models/standard_v3_3/model.onnx"},
    {"gtcrn-simple", "onnx-gtcrn/gtcrn_simple.onnx"},
};

static void test_cases(void)
{
  for (size_t i = 0; i < COUNT(cases); i++) {
    const char *model = arena_printf(&tiny.arena, "%s/models/%s", MICC_SHARED_DIR, cases[i].model),
               *folder =
                   arena_printf(&tiny.arena, "%s/reference/onnxruntime/%s", MICC_SHARED_DIR, cases[i].name);
    if (access(model, R_OK) || access(folder, R_OK)) {
      tally_skip("%s is not there", model);
      continue;
    }
    Proc p = TINY_RUN(MICC_EXE, "verify", model, "--case", folder);
    if (!tally(!p.status && !p.err_len, "verify %s: ONNX Runtime's outputs", cases[i].name))
      tiny_show(&p);
  }
}

int main(void)
{
  if (!MICC_HAVE_LLVM) {
    tally_skip("micc was built without LLVM");
    return tally_end();
  }
  if (tiny_open()) {
    test_verify();
    test_first_node();
    test_cases();
  }
  return tiny_close();
}
