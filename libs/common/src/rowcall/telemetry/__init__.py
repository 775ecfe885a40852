"""What services measure of themselves, and how it is read: figures of a process, kept in memory, at some tenths of a microsecond each;
and what things are called that are told of.

`conventions` (the name of every attribute, and what each follows), `tallies` (counters, histograms and gauges), `metrics` (every one that there is, by its name, and what each follows), `exposition`
(all of them as Prometheus reads them), `otlp_metrics` (as exporters over OTLP take them), `push` (sends them every so often), `process` (what the process itself takes);
`sampling` (which traces are recorded), `spans` (what exporters are told, through buffers that nobody waits for), `taking` (whether exporters take what they are given), `activity` (spans, to the shards that have what they are about), `environment` (what OpenTelemetry's variables ask for).

Whoever counts something imports `metrics` and nothing else. It imports nothing of ours, so that everything may count.
"""
