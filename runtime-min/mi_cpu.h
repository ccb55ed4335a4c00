/* mi_cpu.h - what this processor can do. */
#ifndef MI_CPU_H
#define MI_CPU_H

#include <stdint.h>

/* MI_CPU_* of mi_image.h, as the processor and the operating system allow. */
uint32_t mi_cpu_features(void);

#endif
