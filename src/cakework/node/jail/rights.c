/* See rights.h. The filters come on top of QEMU's own (-sandbox), so they name what that leaves open. */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "rights.h"

#define MOST 192
#define X32_BIT 0x40000000
#define REFUSE(error) (SECCOMP_RET_ERRNO | (error))
#define LOW_HALF(index) ((uint32_t)offsetof(struct seccomp_data, args[index]))

static const int never[] = {
    SYS_execve, SYS_execveat, SYS_fork, SYS_vfork, SYS_ptrace, SYS_process_vm_readv,
    SYS_process_vm_writev, SYS_kill, SYS_tkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo,
    SYS_pidfd_open, SYS_pidfd_getfd, SYS_pidfd_send_signal, SYS_kcmp, SYS_unshare, SYS_setns,
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_setsid, SYS_setpgid, SYS_bpf,
    SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup, SYS_add_key, SYS_request_key,
    SYS_keyctl, SYS_migrate_pages, SYS_move_pages, SYS_process_madvise,
    /* What would outlive a fork in the namespace it shares with its zygote, or be met there by another. */
    SYS_shmget, SYS_shmat, SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_semget, SYS_semop, SYS_semtimedop,
    SYS_mq_open, SYS_mq_unlink,
    /* What would slow down or starve another process of the user. */
    SYS_setpriority, SYS_ioprio_set, SYS_sched_setparam, SYS_sched_setscheduler,
    SYS_sched_setaffinity, SYS_sched_setattr,
};
static const int users[] = {
    SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid,
    SYS_setfsuid, SYS_setfsgid, SYS_setgroups,
};

/* A fork shares the network namespace of its zygote, and the names of sockets in it, with other accounts'. */
static const int sockets[] = {
    SYS_socket, SYS_bind, SYS_connect, SYS_listen,
};

struct filter {
    struct sock_filter rules[MOST];
    unsigned short count;
};

static void add(struct filter *filter, unsigned code, uint32_t value, unsigned yes, unsigned no)
{
    struct sock_filter rule = { (unsigned short)code, (unsigned char)yes, (unsigned char)no, value };
    filter->rules[filter->count++] = rule;
}

static void answer(struct filter *filter, uint32_t what)
{
    add(filter, BPF_RET | BPF_K, what, 0, 0);
}

static void refuse_all(struct filter *filter, const int *calls, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        add(filter, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], 0, 1);
        answer(filter, REFUSE(EPERM));
    }
}

/* A thread of the own process may be made, and a fork like zygote.c's if it may be at all. */
static void bound_clone(struct filter *filter, uint32_t may_fork)
{
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1);
    answer(filter, REFUSE(ENOSYS));
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 5);
    add(filter, BPF_LD | BPF_W | BPF_ABS, LOW_HALF(0), 0, 0);
    add(filter, BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0);
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, may_fork ? CLONE_PARENT | SIGCHLD : ~0u, 0, 1);
    answer(filter, SECCOMP_RET_ALLOW);
    answer(filter, REFUSE(EPERM));
}

/* Refuses `call` where the low half of argument `index` is one of `values`. */
static void refuse_with(struct filter *filter, int call, int index, const uint32_t *values,
                        unsigned count)
{
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 3 + count);
    add(filter, BPF_LD | BPF_W | BPF_ABS, LOW_HALF(index), 0, 0);
    for (unsigned i = 0; i < count; i++)
        add(filter, BPF_JMP | BPF_JEQ | BPF_K, values[i], count - i, 0);
    answer(filter, SECCOMP_RET_ALLOW);
    answer(filter, REFUSE(EPERM));
}

/* Limits are those of the own process, and no file is made to send a signal to another. */
static void bound_reach(struct filter *filter)
{
    static const uint32_t owners[] = { F_SETOWN, F_SETSIG, F_SETOWN_EX };
    static const uint32_t requests[] = { FIOSETOWN, SIOCSPGRP };
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, SYS_prlimit64, 0, 4);
    add(filter, BPF_LD | BPF_W | BPF_ABS, LOW_HALF(0), 0, 0);
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1);
    answer(filter, SECCOMP_RET_ALLOW);
    answer(filter, REFUSE(EPERM));
    refuse_with(filter, SYS_fcntl, 1, owners, sizeof owners / sizeof *owners);
    refuse_with(filter, SYS_ioctl, 1, requests, sizeof requests / sizeof *requests);
}

/* Signals go to threads of the own process alone. */
static void bound_signals(struct filter *filter)
{
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, SYS_tgkill, 0, 4);
    add(filter, BPF_LD | BPF_W | BPF_ABS, LOW_HALF(0), 0, 0);
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)syscall(SYS_getpid), 0, 1);
    answer(filter, SECCOMP_RET_ALLOW);
    answer(filter, REFUSE(EPERM));
}

static int forbid(uint32_t may_fork, int trusted)
{
    struct filter filter = { .count = 0 };
    add(&filter, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch), 0, 0);
    add(&filter, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    answer(&filter, SECCOMP_RET_KILL_PROCESS);
    add(&filter, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr), 0, 0);
    add(&filter, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
    answer(&filter, REFUSE(EPERM));
    refuse_all(&filter, never, sizeof never / sizeof *never);
    bound_clone(&filter, may_fork);
    bound_reach(&filter);
    if (!trusted) {
        refuse_all(&filter, users, sizeof users / sizeof *users);
        refuse_all(&filter, sockets, sizeof sockets / sizeof *sockets);
        bound_signals(&filter);
    }
    answer(&filter, SECCOMP_RET_ALLOW);
    struct sock_fprog program = { filter.count, filter.rules };
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

int keep_to_forking(void)
{
    return forbid(1, 1);
}

int change_user(uint32_t uid)
{
    if (!uid)
        return 0;
    if (syscall(SYS_setresgid, uid, uid, uid) || syscall(SYS_setresuid, uid, uid, uid))
        return -1;
    return 0;
}

int give_up_rights(uint32_t may_fork)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct none[2] = { { 0 }, { 0 } };
    if (syscall(SYS_capset, &header, none) || prctl(PR_SET_DUMPABLE, 0))
        return -1;
    return forbid(may_fork, 0);
}
