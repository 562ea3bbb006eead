/* Steps the wall clock of one process: CLOCK_REALTIME plus the seconds (int64, native) in the file named by CHAOS_CLOCK.
   The monotonic clock is left alone, as a real step leaves it. Preloaded; the file is mapped, so that a step takes effect at once.
   SIGXFSZ is ignored: a file at its size limit then fails with an error, as a full disk does. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *step;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CHAOS_CLOCK");
  signal(SIGXFSZ, SIG_IGN);
  if (!path) return;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) _exit(97);
  void *page = mmap(0, sizeof *step, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (page == MAP_FAILED) _exit(98);
  step = page;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
  int code = (int)syscall(SYS_clock_gettime, clock, at);
  if (!code && step && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += *step;
  return code;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  struct timespec now;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
