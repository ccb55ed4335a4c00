/* mi_host.h - what the runtime asks of the operating system: memory, time, processors, randomness.
 * Everything falls back quietly: a program runs in a chroot without /proc and /sys. */
#ifndef MI_HOST_H
#define MI_HOST_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed, page-aligned memory; NULL if there is none. Pages cost nothing until they are touched. */
void *mi_host_map(size_t bytes);
void mi_host_unmap(void *memory, size_t bytes);

/* Pages of a file that are not in memory yet are best read and mapped in large pieces: `p` begins a page. Only a wish. */
void mi_host_want_large_pages(const void *p, size_t bytes);

uint64_t mi_host_clock_ns(void); /* monotonic */
uint32_t mi_host_random(void);   /* for seeds */

unsigned mi_host_cpus(void);  /* logical processors that this process may use */
unsigned mi_host_cores(void); /* physical cores among them, within the quota of a container */

#endif
