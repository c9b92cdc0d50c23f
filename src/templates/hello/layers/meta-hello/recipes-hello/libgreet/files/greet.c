/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "greet.h"

#include "config.h"

#include <stdio.h>

size_t greet(char *text, size_t size, const char *name)
{
	int length = snprintf(text, size, "Hello, %s!", name);

	return length < 0 ? 0 : (size_t)length;
}

const char *greet_version(void)
{
	return PACKAGE_VERSION;
}
