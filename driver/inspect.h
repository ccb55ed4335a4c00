/* inspect.h - `micc inspect FILE`: what a model file holds. */
#ifndef MICC_INSPECT_H
#define MICC_INSPECT_H

/* Prints to stdout; argv[0] is "inspect". Returns the exit code: 0, 1 for an error (a line
 * on stderr), 2 for wrong usage. */
int cmd_inspect(int argc, char **argv);

#endif
