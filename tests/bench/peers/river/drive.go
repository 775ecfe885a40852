// Drives River for the benchmarks: drive prepare|fill|drain|starts|stream DSN [COUNT or SECONDS]. Prints a JSON line.
//
// To drain: what River's own "river bench" sets (https://riverqueue.com/docs/benchmarks): 2,000 workers, a cooldown of 2 ms, a poll
// of 20 ms. Its completer batches by itself and has no settings. In bulk: InsertManyFast, which is COPY, the faster of two by
// https://riverqueue.com/docs/batch-job-insertion, by 5,000 as in "river bench". To start: LISTEN and NOTIFY, as by default, and the
// smallest cooldown that is allowed, of worker and client: both wait for it, and it is 100 ms by default.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const (
	workers   = 2_000
	bulk      = 5_000
	producers = 8 // in bulk, as many as ours
	backlog   = 5_000
	warming   = 10
)

var throughput = river.Config{FetchCooldown: 2 * time.Millisecond, FetchPollInterval: 20 * time.Millisecond}
var latency = river.Config{FetchCooldown: river.FetchCooldownMin}

type Noop struct {
	Payload string `json:"payload"`
}

func (Noop) Kind() string { return "noop" }

var args = Noop{Payload: strings.Repeat("x", 186)} // 200 bytes as JSON

func tell(what any) error { return json.NewEncoder(os.Stdout).Encode(what) }

// Wall-clock milliseconds, which both processes read alike; Go tells its monotonic clock to nobody.
func now() float64 { return float64(time.Now().UnixNano()) / 1e6 }

func connect(ctx context.Context, dsn string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 20
	return pgxpool.NewWithConfig(ctx, config)
}

// A client that does jobs if it is given what they do, and only enqueues if not.
func client(pool *pgxpool.Pool, config river.Config, work func()) (*river.Client[pgx.Tx], error) {
	config.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if work != nil {
		config.Workers = river.NewWorkers()
		river.AddWorker(config.Workers, river.WorkFunc(func(context.Context, *river.Job[Noop]) error {
			work()
			return nil
		}))
		config.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}}
	}
	return river.NewClient(riverpgxv5.New(pool), &config)
}

func rows(ctx context.Context, pool *pgxpool.Pool, where string) (found int, err error) {
	err = pool.QueryRow(ctx, "select count(*) from river_job where "+where).Scan(&found)
	return found, err
}

const (
	waiting  = "state <> 'completed'"
	finished = "state = 'completed'"
)

func prepare(ctx context.Context, pool *pgxpool.Pool, _ int) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	return tell(struct{}{})
}

func enqueue(ctx context.Context, to *river.Client[pgx.Tx], many int) error {
	params := make([]river.InsertManyParams, many)
	for index := range params {
		params[index].Args = args
	}
	inserted, err := to.InsertManyFast(ctx, params)
	if err == nil && inserted != many {
		err = fmt.Errorf("%d of %d jobs were enqueued", inserted, many)
	}
	return err
}

func fill(ctx context.Context, pool *pgxpool.Pool, count int) error {
	to, err := client(pool, throughput, nil)
	if err != nil {
		return err
	}
	before, err := rows(ctx, pool, waiting)
	if err != nil {
		return err
	}
	began := time.Now()
	var next atomic.Int64
	failed := make([]error, producers)
	var all sync.WaitGroup
	for index := range producers {
		all.Go(func() {
			for {
				begin := int(next.Add(bulk)) - bulk
				if begin >= count {
					return
				}
				if failed[index] = enqueue(ctx, to, min(bulk, count-begin)); failed[index] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	seconds := time.Since(began).Seconds()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	after, err := rows(ctx, pool, waiting)
	if err != nil {
		return err
	}
	return tell(map[string]any{"seconds": seconds, "rows": after - before})
}

// Jobs that are counted when they are done, and when the first of them began.
type doing struct {
	done  atomic.Int64
	first sync.Once
	began time.Time
}

func (d *doing) work() {
	d.first.Do(func() { d.began = time.Now() })
	d.done.Add(1)
}

// Until so many more rows say that they are done.
func settled(ctx context.Context, pool *pgxpool.Pool, before, count int) error {
	for {
		found, err := rows(ctx, pool, finished)
		if err != nil || found-before >= count {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func drain(ctx context.Context, pool *pgxpool.Pool, count int) error {
	var jobs doing
	before, err := rows(ctx, pool, finished)
	if err != nil {
		return err
	}
	worker, err := client(pool, throughput, jobs.work)
	if err != nil {
		return err
	}
	if err := worker.Start(ctx); err != nil {
		return err
	}
	for int(jobs.done.Load()) < count {
		time.Sleep(5 * time.Millisecond)
	}
	if err := settled(ctx, pool, before, count); err != nil {
		return err
	}
	seconds := time.Since(jobs.began).Seconds()
	if err := worker.Stop(ctx); err != nil {
		return err
	}
	left, err := rows(ctx, pool, waiting)
	if err != nil {
		return err
	}
	if int(jobs.done.Load()) != count || left != 0 {
		return fmt.Errorf("%d of %d jobs were run, %d rows are left", jobs.done.Load(), count, left)
	}
	return tell(map[string]any{"seconds": seconds})
}

func stream(ctx context.Context, pool *pgxpool.Pool, seconds int) error {
	var jobs doing
	before, err := rows(ctx, pool, finished)
	if err != nil {
		return err
	}
	worker, err := client(pool, throughput, jobs.work)
	if err != nil {
		return err
	}
	if err := worker.Start(ctx); err != nil {
		return err
	}
	began, enqueued := time.Now(), 0
	for time.Since(began) < time.Duration(seconds)*time.Second {
		if enqueued-int(jobs.done.Load()) >= backlog {
			time.Sleep(time.Millisecond)
			continue
		}
		if err := enqueue(ctx, worker, 1_000); err != nil {
			return err
		}
		enqueued += 1_000
	}
	for int(jobs.done.Load()) < enqueued {
		time.Sleep(5 * time.Millisecond)
	}
	if err := settled(ctx, pool, before, enqueued); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	if err := worker.Stop(ctx); err != nil {
		return err
	}
	after, err := rows(ctx, pool, finished)
	if err != nil {
		return err
	}
	left := enqueued - (after - before)
	return tell(map[string]any{"seconds": took, "enqueued": enqueued, "done": jobs.done.Load(), "left": left})
}

func work(ctx context.Context, pool *pgxpool.Pool, _ int) error {
	worker, err := client(pool, latency, func() { _ = tell(map[string]any{"at": now()}) })
	if err != nil {
		return err
	}
	if err := worker.Start(ctx); err != nil {
		return err
	}
	if err := tell(map[string]any{"ready": true}); err != nil {
		return err
	}
	select {}
}

func starts(ctx context.Context, pool *pgxpool.Pool, count int) error {
	own, err := os.Executable()
	if err != nil {
		return err
	}
	worker := exec.Command(own, "work", os.Args[2])
	worker.Stderr = os.Stderr
	out, err := worker.StdoutPipe()
	if err != nil {
		return err
	}
	if err := worker.Start(); err != nil {
		return err
	}
	defer func() { _ = worker.Process.Kill(); _ = worker.Wait() }()
	lines := bufio.NewReader(out)
	at := func() (float64, error) {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return 0, errors.New("the worker has ended")
		}
		if err != nil {
			return 0, err
		}
		var found struct{ At float64 }
		return found.At, json.Unmarshal(line, &found)
	}
	if _, err := at(); err != nil {
		return err
	}
	time.Sleep(time.Second)
	to, err := client(pool, latency, nil)
	if err != nil {
		return err
	}
	milliseconds := []float64{}
	// The first ones connect.
	for number := -warming; number < count; number++ {
		time.Sleep(time.Duration(5+rand.Float64()*25) * time.Millisecond)
		before := now()
		if _, err := to.Insert(ctx, args, nil); err != nil {
			return err
		}
		ran, err := at()
		if err != nil {
			return err
		}
		if number >= 0 {
			milliseconds = append(milliseconds, ran-before)
		}
	}
	return tell(map[string]any{"milliseconds": milliseconds})
}

func main() {
	actions := map[string]func(context.Context, *pgxpool.Pool, int) error{
		"prepare": prepare, "fill": fill, "drain": drain, "stream": stream, "starts": starts, "work": work,
	}
	count := 0
	if len(os.Args) > 3 {
		count, _ = strconv.Atoi(os.Args[3])
	}
	ctx := context.Background()
	pool, err := connect(ctx, os.Args[2])
	if err == nil {
		err = actions[os.Args[1]](ctx, pool, count)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
