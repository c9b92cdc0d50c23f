/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef GREET_H
#define GREET_H

#include <stddef.h>

/*
 * Write a greeting for NAME into TEXT, which has room for SIZE bytes, its terminator included.
 * Returns the length of the whole greeting; what does not fit is cut off.
 */
size_t greet(char *text, size_t size, const char *name);

/* The version of the library, such as "1.0". */
const char *greet_version(void);

#endif
