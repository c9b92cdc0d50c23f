/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "config.h"

#include <greet.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	char text[80];

	greet(text, sizeof(text), argc > 1 ? argv[1] : "world");
	printf("%s\n", text);
#ifdef BUILT_BY
	puts("Built by " BUILT_BY ".");
#endif
	printf("hello %s, libgreet %s\n", PACKAGE_VERSION, greet_version());
	return 0;
}
