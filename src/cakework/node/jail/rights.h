/* What a QEMU that can be forked may do, and what its forks may. All return 0, or -1 and errno. */
#pragma once

#include <stdint.h>

/* From now on no program is run and no other process touched. It may be forked, and forks may change user
 * if the process has the capability. Forks inherit this, so it says nothing of signals to the own process. */
int keep_to_forking(void);

/* Becomes user and group `uid`, in the calling thread, which must be the only one; 0: nothing. */
int change_user(uint32_t uid);

/* Gives up every capability, and from now on changing user; unless `may_fork`, also forking. For the calling
 * thread and those it makes. */
int give_up_rights(uint32_t may_fork);
