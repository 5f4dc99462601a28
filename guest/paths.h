/* Where the guest keeps what the user's process must not see. VM_FOLDER is one mount, taken
 * out of the user's mount namespace as a whole; NEW_ROOT is where the user's root is put
 * together. */
#ifndef PATHS_H
#define PATHS_H

#define VM_FOLDER "/vm"
#define VM_DEV VM_FOLDER "/dev"
#define VM_PROC VM_FOLDER "/proc"
#define VM_SYS VM_FOLDER "/sys"
#define VM_CGROUP VM_FOLDER "/cgroup"
#define VM_IMAGE VM_FOLDER "/image"
#define VM_SCRATCH VM_FOLDER "/scratch"
#define VM_UPPER VM_SCRATCH "/upper"
#define VM_WORK VM_SCRATCH "/work"
#define USER_DEV VM_FOLDER "/user/dev"
#define USER_PROC VM_FOLDER "/user/proc"
#define USER_SYS VM_FOLDER "/user/sys"
#define NEW_ROOT "/root"

#endif
