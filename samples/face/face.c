/* face.c - prints where faces are in a picture: a C program that links a compiled model.
 *
 *   face [PICTURE.ppm]      (or from standard input)
 *
 * The model is UltraFace (version-RFB-320.onnx), compiled to libface.a and face.h. It looks at 320 x 240 pixels and gives
 * 4,420 candidates: how sure it is, and a box. What stands here is what a model leaves to its user: reading a picture,
 * scaling it, and keeping the best of boxes that overlap (non-maximum suppression). */
#include "face.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { WIDTH = 320, HEIGHT = 240, CANDIDATES = 4420, SIDE_MAX = 1 << 14 };
static const float SURE = 0.7f, OVERLAP = 0.3f; /* the model's authors' choice */

typedef struct {
  int width, height;
  uint8_t *rgb; /* [height][width][3] */
} Picture;

typedef struct {
  float x0, y0, x1, y1, score; /* 0..1 of the picture's width and height */
} Box;

static int stop(const char *why)
{
  fprintf(stderr, "face: %s\n", why);
  return 1;
}

/* ---- the picture: binary PPM, which every image tool writes */

/* The next number of a PPM header; comments reach to the end of their line. */
static int header_number(FILE *f)
{
  int c = getc(f), n = -1;

  while (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '#') {
    if (c == '#')
      while (c != '\n' && c != EOF)
        c = getc(f);
    c = getc(f);
  }
  for (; c >= '0' && c <= '9' && n <= SIDE_MAX; c = getc(f))
    n = (n < 0 ? 0 : n) * 10 + (c - '0');
  return n; /* one byte after the number is taken, as the format has it */
}

static const char *read_picture(FILE *f, Picture *p)
{
  if (getc(f) != 'P' || getc(f) != '6')
    return "this is no binary PPM picture";
  p->width = header_number(f);
  p->height = header_number(f);
  if (header_number(f) != 255 || p->width < 1 || p->height < 1 || p->width > SIDE_MAX || p->height > SIDE_MAX)
    return "a picture has 8 bits a channel, and 1 to 16384 pixels a side";
  size_t bytes = (size_t)p->width * (size_t)p->height * 3;
  p->rgb = malloc(bytes);
  if (!p->rgb)
    return "out of memory";
  return fread(p->rgb, 1, bytes, f) == bytes ? NULL : "the picture is cut short";
}

/* ---- what the model wants: [3][240][320], red first, about -1..1 */

/* Where pixel i of `to` falls among `from` pixels: the one before, and how far the next one counts. */
static int source(int i, int from, int to, float *part)
{
  float at = ((float)i + 0.5f) * (float)from / (float)to - 0.5f;

  at = at<0 ? 0 : at>(float)(from - 1) ? (float)(from - 1) : at;
  int first = at < (float)(from - 2) ? (int)at : from > 1 ? from - 2 : 0;
  *part = at - (float)first;
  return first;
}

static float pixel(const Picture *p, int x, int y, int channel)
{
  return p->rgb[((size_t)y * (size_t)p->width + (size_t)x) * 3 + (size_t)channel];
}

static void fill_input(const Picture *p, float *input)
{
  for (int c = 0; c < 3; c++)
    for (int y = 0; y < HEIGHT; y++)
      for (int x = 0; x < WIDTH; x++) {
        float px, py;
        int x0 = source(x, p->width, WIDTH, &px), x1 = x0 + (p->width > 1);
        int y0 = source(y, p->height, HEIGHT, &py), y1 = y0 + (p->height > 1);
        float above = pixel(p, x0, y0, c) * (1 - px) + pixel(p, x1, y0, c) * px;
        float below = pixel(p, x0, y1, c) * (1 - px) + pixel(p, x1, y1, c) * px;
        *input++ = (above * (1 - py) + below * py - 127) / 128;
      }
}

/* ---- what the model says */

static int better(const void *a, const void *b)
{
  const Box *p = a, *q = b;

  return (p->score < q->score) - (p->score > q->score);
}

static float area(float width, float height)
{
  return width > 0 && height > 0 ? width * height : 0;
}

/* The part of both boxes together that both cover. */
static float overlap(const Box *a, const Box *b)
{
  float x0 = a->x0 > b->x0 ? a->x0 : b->x0, x1 = a->x1 < b->x1 ? a->x1 : b->x1;
  float y0 = a->y0 > b->y0 ? a->y0 : b->y0, y1 = a->y1 < b->y1 ? a->y1 : b->y1;
  float both = area(x1 - x0, y1 - y0);
  float all = area(a->x1 - a->x0, a->y1 - a->y0) + area(b->x1 - b->x0, b->y1 - b->y0) - both;

  return all > 0 ? both / all : 0;
}

/* Of boxes that overlap, the one of the best score stays. Returns how many do. */
static int find_faces(const float *scores, const float *boxes, Box *found)
{
  int n = 0, kept = 0;

  for (int i = 0; i < CANDIDATES; i++, boxes += 4)
    if (scores[2 * i + 1] > SURE)
      found[n++] = (Box){boxes[0], boxes[1], boxes[2], boxes[3], scores[2 * i + 1]};
  qsort(found, (size_t)n, sizeof *found, better);
  for (int i = 0; i < n; i++) {
    int k = 0;
    while (k < kept && overlap(&found[k], &found[i]) <= OVERLAP)
      k++;
    if (k == kept)
      found[kept++] = found[i];
  }
  return kept;
}

static int print_faces(const Picture *p)
{
  static float input[3 * HEIGHT * WIDTH], scores[CANDIDATES * 2], boxes[CANDIDATES * 4];
  static Box found[CANDIDATES];
  face_context model = {
      .arena = aligned_alloc(64, FACE_ARENA_BYTES), .input = input, .scores = scores, .boxes = boxes};

  fill_input(p, input);
  if (face_run(&model))
    return stop("out of memory");
  free(model.arena);
  int n = find_faces(scores, boxes, found);
  float w = (float)p->width, h = (float)p->height;
  for (int i = 0; i < n; i++)
    printf("%.0f,%.0f to %.0f,%.0f: %.3f\n", found[i].x0 * w, found[i].y0 * h, found[i].x1 * w,
           found[i].y1 * h, found[i].score);
  printf("%d face%s\n", n, n == 1 ? "" : "s");
  return 0;
}

int main(int argc, char **argv)
{
  FILE *f = argc > 1 ? fopen(argv[1], "rb") : stdin;
  Picture picture = {0};

  if (!f)
    return stop("the picture cannot be opened");
  const char *why = read_picture(f, &picture);
  if (f != stdin)
    fclose(f);
  int status = why ? stop(why) : print_faces(&picture);
  free(picture.rgb);
  return status;
}
