/* files.h - bytes for tests of readers: from files, to files, and copies that end where they end. */
#ifndef MICC_TEST_FILES_H
#define MICC_TEST_FILES_H

#include <stddef.h>
#include <stdint.h>

/* Of exactly that size, so that sanitizers see the first byte read behind it; to be freed. */
uint8_t *exact_copy(const void *data, size_t n);

uint8_t *file_read(const char *path, size_t *bytes); /* to be freed; NULL if it cannot be opened */
void file_write(const char *path, const void *data, size_t n);

#endif
