/* Where one path of the engine takes over from another: everything here was measured, and may be
   set from outside with -D. `python -m benchmarks.crossovers` builds and times both sides of each. */
#ifndef FASTBP_CROSSOVERS_H
#define FASTBP_CROSSOVERS_H

/* Bytes of W up to which a forward product takes it whole, not in blocks. */
#ifndef WHOLE_WEIGHT
#define WHOLE_WEIGHT (1L << 19)
#endif
/* Bytes of W, and rows, from which on those blocks are laid out in panels. From these bytes on,
   rows of W are also asked for ahead of their update. */
#ifndef LARGE_WEIGHT
#define LARGE_WEIGHT (3L << 19)
#endif
#ifndef MANY_ROWS
#define MANY_ROWS 64L
#endif
/* Bytes of D from which on it passes for the rows of several panels of W at once. */
#ifndef LARGE_DELTA
#define LARGE_DELTA (1L << 20)
#endif
/* Rows up to which D W^T is taken by dot products. */
#ifndef DOT_ROWS
#define DOT_ROWS (TILE_ROWS / 2L)
#endif
/* Panels of rows up to which D W^T is taken as (W D^T)^T, and columns of D from which on. */
#ifndef DELTA_PANELS
#define DELTA_PANELS 2L
#endif
#ifndef DELTA_WIDTH
#define DELTA_WIDTH 256L
#endif
/* Columns of D from which on columns of X are laid out for X^T D. */
#ifndef LAID_OUT_WIDTH
#define LAID_OUT_WIDTH 256L
#endif
/* Floating-point operations of a prediction that are done without releasing the GIL: taking it
   back costs more than some 20 us of work give. */
#ifndef GIL_FLOPS
#define GIL_FLOPS 4e5
#endif
/* Operations of a pass below which the members of a team would wait for each other more than work,
   and of a call below which the team takes longer to make than it saves. */
#ifndef TEAM_FLOPS
#define TEAM_FLOPS 1.2e7
#endif
#ifndef TEAM_CALL_FLOPS
#define TEAM_CALL_FLOPS 5e7
#endif

#endif
