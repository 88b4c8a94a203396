/* Preloaded into a process, makes its disk slow: each fsync and fdatasync first sleeps SLOW_FSYNC_MS milliseconds.
 *
 * Built and used by slow_disk.py; Linux only (macOS ignores LD_PRELOAD and syncs by fcntl). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static void delay(void)
{
    const char *text = getenv("SLOW_FSYNC_MS");
    double ms = text ? strtod(text, NULL) : 0;
    if (ms <= 0)
        return;
    struct timespec left = {.tv_sec = (time_t)(ms / 1e3)};
    left.tv_nsec = (long)((ms - left.tv_sec * 1e3) * 1e6);
    while (nanosleep(&left, &left) != 0)
        ; /* a signal cut it short */
}

int fsync(int descriptor)
{
    delay();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}

int fdatasync(int descriptor)
{
    delay();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(descriptor);
}
