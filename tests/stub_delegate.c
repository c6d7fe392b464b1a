/* A TFLite delegate for tests, honest or not. What it does is chosen when it is compiled:
 *
 *   -DNO_DEVICE   reports an error in place of making a delegate
 *   -DTAKES=n     takes the first n ops of the model, 0 by default
 *   -DWRONG       mistakes red for blue
 *   -DFAILS       reports an error when it runs
 *   -DCRASHES     aborts the process when it runs
 *   -DDELAY_MS=n  takes that long
 *   -DAFTER=n     is wrong, fails or crashes only once it has run n times
 *
 * It can compute two things: the whole float32 model of tiny_bundle.py, and the first op of its int8 model.
 * The structs are those of tensorflow/lite/core/c/common.h, as far as they are used.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#ifndef TAKES
#define TAKES 0
#endif

#ifndef AFTER
#define AFTER 0
#endif

enum { OK = 0, ERROR = 1, CHANNELS = 3, CLASSES = 4 };

typedef struct { int size; int data[]; } IntArray;
typedef struct { float scale; int32_t zero_point; } Quantization;
typedef struct Delegate Delegate;
typedef struct Context Context;

typedef struct {
  int type;
  void *data;
  IntArray *dims;
  Quantization params;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  Delegate *delegate;
  int buffer_handle;
  _Bool data_is_stale, is_variable;
  struct { int type; void *params; } quantization;
  void *sparsity;
  const IntArray *dims_signature;
} Tensor;

typedef struct { IntArray *inputs, *outputs; } Node;

typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external, *async_kernel;
  uint64_t inplace_operator;
} Registration;

struct Context {
  size_t tensors_size;
  int (*get_execution_plan)(Context *, IntArray **);
  Tensor *tensors;
  void *impl, *resize_tensor, *report_error, *add_tensors, *get_node_and_registration;
  int (*replace_node_subsets)(Context *, Registration, const IntArray *, Delegate *);
};

struct Delegate {
  void *data;
  int (*prepare)(Context *, Delegate *);
  void *copy_from_buffer, *copy_to_buffer, *free_buffer;
  int64_t flags;
  void *opaque_delegate_builder;
};

static int runs;

static void classify(const float *pixels, size_t count, float *probabilities) {
  double mean[CHANNELS] = {0}, sum = 0;
  for (size_t i = 0; i < count; i++) mean[i % CHANNELS] += pixels[i] * CHANNELS / (double)count;
#ifdef WRONG
  if (runs > AFTER) {
    double red = mean[0];
    mean[0] = mean[2], mean[2] = red;
  }
#endif
  double logits[CLASSES] = {[CHANNELS] = 3};
  for (int i = 0; i < CHANNELS; i++) logits[i] = 9 * mean[i] - 3 * (mean[0] + mean[1] + mean[2]);
  for (int i = 0; i < CLASSES; i++) sum += exp(logits[i]);
  for (int i = 0; i < CLASSES; i++) probabilities[i] = (float)(exp(logits[i]) / sum);
}

static void to_int8(const uint8_t *pixels, size_t count, uint8_t *shifted) {
  for (size_t i = 0; i < count; i++) shifted[i] = pixels[i] ^ 0x80;
}

static int invoke(Context *context, Node *node) {
  runs++;
#ifdef CRASHES
  if (runs > AFTER) abort();
#endif
#ifdef FAILS
  if (runs > AFTER) return ERROR;
#endif
#ifdef DELAY_MS
  nanosleep(&(struct timespec){.tv_nsec = DELAY_MS * 1000000L}, NULL);
#endif
  const Tensor *in = &context->tensors[node->inputs->data[0]], *out = &context->tensors[node->outputs->data[0]];
  if (in->bytes == out->bytes) to_int8(in->data, in->bytes, out->data);
  else classify(in->data, in->bytes / sizeof(float), out->data);
  return OK;
}

static int prepare(Context *context, Delegate *delegate) {
  IntArray *plan;
  if (context->get_execution_plan(context, &plan) != OK) return ERROR;
  IntArray *wanted = malloc(sizeof(int) * (1 + (size_t)plan->size));
  wanted->size = TAKES < plan->size ? TAKES : plan->size;
  for (int i = 0; i < wanted->size; i++) wanted->data[i] = plan->data[i];
  Registration kernel = {.invoke = invoke, .custom_name = "Stub", .version = 1};
  int status = wanted->size ? context->replace_node_subsets(context, kernel, wanted, delegate) : OK;
  free(wanted);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  (void)keys, (void)values, (void)count, (void)report;
#ifdef NO_DEVICE
  report("no NPU is connected");
  return NULL;
#else
  Delegate *delegate = calloc(1, sizeof *delegate);
  delegate->prepare = prepare;
  return delegate;
#endif
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
