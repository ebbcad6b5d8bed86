/* The smallest supervisor that opens and connects on behalf, for tests/bench.py to compare with.
   It runs a program under a filter that traps openat, connect and execve, copies path or address,
   acts, and hands over the result; an exec is only continued. It judges nothing. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static long copy(int pid, unsigned long from, void *to, size_t size) {
    struct iovec local = {to, size}, remote = {(void *)from, size};
    return process_vm_readv(pid, &local, 1, &remote, 1, 0);
}

static long on_open(int listener, struct seccomp_notif *n) {
    char path[4096];
    unsigned long at = n->data.args[1];
    if (copy(n->pid, at, path, 4096 - at % 4096) < 0)
        return -EFAULT;
    int fd = open(path, (int)n->data.args[2] | O_CLOEXEC, (int)n->data.args[3]);
    if (fd < 0)
        return -errno;
    struct seccomp_notif_addfd add = {.id = n->id, .srcfd = fd};
    long got = ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
    close(fd);
    return got < 0 ? -errno : got;
}

static long on_connect(struct seccomp_notif *n) {
    char address[128];
    size_t size = n->data.args[2];
    if (size > sizeof address || copy(n->pid, n->data.args[1], address, size) < (long)size)
        return -EFAULT;
    int pidfd = syscall(SYS_pidfd_open, n->pid, 0);
    int s = syscall(SYS_pidfd_getfd, pidfd, (int)n->data.args[0], 0);
    long result = s < 0 || connect(s, (void *)address, size) ? -errno : 0;
    close(pidfd);
    close(s);
    return result;
}

int main(int argc, char **argv) {
#define TRAP(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        TRAP(SYS_openat), TRAP(SYS_connect), TRAP(SYS_execve),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog filter = {sizeof code / sizeof *code, code};
    int channel[2], fd;
    pipe(channel);
    int child = fork();
    if (child == 0) {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
        write(channel[1], &fd, sizeof fd);
        execv(argv[1], argv + 1);
        _exit(127);
    }
    read(channel[0], &fd, sizeof fd);
    int listener = syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, child, 0), fd, 0);
    ioctl(listener, _IOW('!', 4, __u64), 1UL);  /* FD_SYNC_WAKE_UP */
    for (;;) {
        struct seccomp_notif n = {0};
        struct pollfd p = {listener, POLLIN, 0};
        if (poll(&p, 1, -1) < 1 || !(p.revents & POLLIN))
            return 0;
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &n))
            continue;
        struct seccomp_notif_resp r = {.id = n.id};
        long result = n.data.nr == SYS_openat ? on_open(listener, &n)
                    : n.data.nr == SYS_connect ? on_connect(&n) : 0;
        if (n.data.nr == SYS_execve)
            r.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        else if (result < 0)
            r.error = result;
        else
            r.val = result;
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r);
    }
}
