"""Every reading that a flow may name: its unit, what it means, and the probes that yield it.

Lint checks flows against this table, so a reading that no probe yields cannot be named. ``text``,
``words`` (a tuple of words) and ``bool`` are units too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    name: str
    unit: str
    doc: str
    probes: tuple[str, ...]


_TABLE = """
gpu.count | cards | NVIDIA cards seen, or told | gpu, told
gpu.name | text | name of the target's card | gpu, told
gpu.memory_bandwidth_gbs | GB/s | memory bandwidth of the card by its data sheet | gpu, told
gpu.capability | sm | CUDA compute capability, 8.9 for sm_89 | told
gpu.mig | bool | the card is in MIG mode: its memory and count are those of one slice | gpu, told
gpu.utilization | % | NVML utilization; reads 100 in nearly every state, good or bad | gpu
gpu.memory_total_gb | GiB | memory of the card | gpu, told
gpu.memory_used_gb | GiB | memory in use on the card | gpu
gpu.memory_free_gb | GiB | memory free on the card | gpu
gpu.target_memory_gb | GiB | memory held by the target's own process tree | gpu
gpu.other_memory_gb | GiB | memory held by processes outside the target's tree | gpu
gpu.other_process | text | the largest foreign holder: "pid 4711 (python train.py) 61.0 GiB" | gpu
gpu.power_w | W | power draw | gpu
gpu.power_limit_w | W | power limit | gpu
gpu.sm_clock_mhz | MHz | SM clock | gpu
gpu.temperature_c | C | temperature | gpu
gpu.driver_version | text | driver version | gpu
gpu.cuda_version | text | highest CUDA version that the driver supports | gpu
host.memory_total_gb | GiB | host memory | host
host.memory_available_gb | GiB | host memory that can still be had | host
host.cgroup_limit_gb | GiB | memory limit of the target's (or our) cgroup, absent when there is none | host
host.cgroup_used_gb | GiB | memory charged to that cgroup | host
host.cgroup_reclaimable_gb | GiB | file cache in that cgroup that the kernel takes back under pressure | host
host.oom_kills | kills | OOM kills counted by that cgroup | host
host.shm_total_gb | GiB | size of /dev/shm | host
host.shm_free_gb | GiB | free in /dev/shm | host
host.cpu_count | cores | cores this process may use | host
host.cpu_percent | % | busy share of all cores over the sample | host
host.load_1m | processes | load average | host
port.number | port | the HTTP port asked about | port
port.state | text | free, or listening | port
port.owner_pid | pid | who listens on it | port
port.owner_command | text | the owner's command line, redacted | port
port.owner_is_target | bool | the owner belongs to the target's process tree | port
port.owner_kind | text | target, sglang, other, or unknown (no permission to see) | port
port.suggested_free | port | a free port near it | port
process.alive | bool | the target process exists and is not a zombie | process
process.pid | pid | the target's parent process | process
process.uptime_s | s | seconds since it started | process
process.rss_gb | GiB | resident memory of the whole tree | process
process.children | processes | processes below the parent | process
process.cpu_percent | % | CPU of the whole tree over the sample, 100 = one core | process
process.tokenizer_percent | % | CPU of the parent (HTTP and tokenizer), 100 = one core | process
process.detokenizer_percent | % | CPU of the busiest detokenizer, 100 = one core | process
process.scheduler_percent | % | CPU of the busiest scheduler; it polls: 100 is normal | process
process.state | text | running, sleeping, stopped, zombie | process
process.stopped_names | words | names of the children in state T | process
process.stopped_children | processes | children in state T (SIGSTOP) | process
process.user | text | who runs it | process
process.exit_code | code | exit code as a shell shows it, where known | process, log
http.reachable | bool | something accepts connections on the target's address | http
http.health | text | serving, starting, draining, unhealthy, hung, refused, not_sglang | http
http.health_status | code | HTTP status of /health | http
http.health_latency_s | s | time /health took; 1.0 s is by design | http
server.version | text | SGLang version | sglang
server.model | text | model path or served name | sglang
server.device | text | cuda, cpu, ... | sglang, told
server.simulated | bool | it says that it is the wizard's simulator | sglang
server.info | text | /server_info: answered (by the scheduler), static, locked, hung, failed, missing | sglang
server.status | text | status in /server_info | sglang
server.host | text | bind address | sglang
server.port | port | HTTP port | sglang
server.tp_size | ranks | tensor parallel size | sglang
server.max_running_requests | requests | the cap in force | sglang
server.max_running_requests_set | requests | the cap given on the command line, absent when none | sglang
server.default_max_running_requests | requests | what SGLang would choose on this pool | sglang
server.max_total_tokens_set | tokens | --max-total-tokens of the command line, absent when none | sglang
server.max_queued_requests | requests | limit of the queue, absent when none | sglang
server.mem_fraction_static | ratio | the fraction in force | sglang, log
server.mem_fraction_static_set | ratio | the fraction given on the command line, absent when none | sglang
server.default_mem_fraction_static | ratio | what SGLang would choose on this card | sglang
server.chunked_prefill_size | tokens | chunk of prefill | sglang
server.context_length | tokens | context length in force | sglang
server.schedule_policy | text | fcfs, lpm, ... | sglang
server.schedule_conservativeness | ratio | admission pessimism factor | sglang
server.disable_radix_cache | bool | prefix cache switched off | sglang
server.cuda_graph_disabled | bool | decode CUDA graphs switched off | sglang
server.cuda_graph_max_bs_set | requests | largest decode graph that is set by hand, absent when none | sglang
server.metrics_enabled | bool | started with --enable-metrics | sglang, metrics
server.quantization | text | how the weights are quantized, "none" when not asked for | sglang
server.kv_cache_dtype | text | type of the KV cache, as configured | sglang
server.attention_backend | text | attention backend, "none" when left to SGLang | sglang
server.speculative_algorithm | text | speculative decoding, "none" when off | sglang
server.enable_torch_compile | bool | torch.compile switched on | sglang
server.enable_mixed_chunk | bool | prefill chunks and decode in one batch | sglang
server.watchdog_timeout | s | the scheduler's watchdog | sglang
server.log_level | text | log level | sglang
server.dp_size | ranks | data parallel size | sglang
server.tokenizer_worker_num | processes | tokenizer processes | sglang
server.tool_call_parser | text | tool call parser, "none" when not set | sglang
server.reasoning_parser | text | reasoning parser, "none" when not set | sglang
server.grammar_backend | text | grammar backend, "none" when off or not set | sglang
server.command_known | bool | the launch command is known, so that it can be started again | sglang
kv.capacity_tokens | tokens | size of the KV pool | metrics, sglang, log
kv.pool_gb | GiB | memory of the KV pool | metrics, sglang, log
kv.cell_bytes | B/token | bytes of KV a token takes on a rank | sglang, log
kv.usage | ratio | share of the pool in use, largest in the window | metrics, log
kv.usage_mean | ratio | share of the pool in use, mean over the window | metrics
kv.used_tokens | tokens | tokens in the pool | metrics
weights.memory_gb | GiB | weights of a rank | metrics, sglang, log
graph.memory_gb | GiB | CUDA graphs of a rank | metrics, sglang, log
server.available_memory_gb | GiB | memory left on the card after start | metrics, sglang, log
requests.running | requests | running now, largest in the window | metrics, log
requests.queued | requests | waiting now, largest in the window | metrics, log
requests.running_mean | requests | running, mean over the window | metrics
requests.queued_mean | requests | waiting, mean over the window | metrics
requests.retracted | requests | retracted during the window | metrics, log
requests.retracted_total | requests | retracted since the server started | metrics, log
requests.finished | requests | finished during the window | metrics
requests.aborted | requests | aborted during the window | metrics
requests.prompt_tokens_mean | tokens | prompt length, mean of the window or else of the server's life | metrics
requests.output_tokens_mean | tokens | output length, mean of the window or else of the server's life | metrics
requests.tokens_mean | tokens | prompt plus output, mean | metrics
throughput.output | tok/s | generated tokens a second over the window | metrics
throughput.input | tok/s | prompt tokens a second over the window | metrics
ttft.p50 | ms | time to first token, median of the window | metrics
ttft.p99 | ms | time to first token, 99th percentile of the window | metrics
itl.p50 | ms | inter-token latency, median of the window | metrics
itl.p99 | ms | inter-token latency, 99th percentile of the window | metrics
e2e.p50 | ms | request latency, median of the window | metrics
queue.p50 | ms | time in the queue, median of the window | metrics
cache.hit_ratio | ratio | cached share of prompt tokens over the window, from counters | metrics
speculation.accept_length | tokens | tokens a speculative step yields, 0 without one | metrics
decode.cuda_graph_share | ratio | share of decode passes run as CUDA graphs over the window | metrics, log
metrics.window_s | s | length of the window between the two scrapes | metrics
metrics.frozen | bool | counters stood still although requests are running | metrics
log.path | text | file that the server writes to | log
log.signature | text | the leading signature found in the log | log
log.cause | text | the cause that the leading signature names, "none" when none leads or it names none | log
log.signatures | words | every signature found, first failure first | log
log.phase | text | starting, loading, kv_allocation, capture, ready, serving, ended | log
log.start_s | s | from the settings to ready, as the log's own clock has it | log
log.failed_in | text | the phase of the log that its leading failure stood in | log
log.error | text | the line that leads | log
log.fired_up | bool | the log says that the server is ready (which can be a lie) | log
log.oom_tried_gb | GiB | what the failed allocation asked for | log
log.oom_free_gb | GiB | what the card had left at that moment | log
log.oom_total_gb | GiB | size of the card in the CUDA out of memory text | log
log.oom_other_gb | GiB | memory held by other processes in the CUDA out of memory text | log
log.avail_before_load_gb | GiB | free on the card before weights were loaded | log
log.avail_after_load_gb | GiB | free on the card after weights were loaded | log
log.needed_fraction | ratio | the fraction SGLang says must be exceeded | log
log.fitting_ranks | ranks | largest power of two, below the refused size, that divides what is split | log
log.port_taken | port | port in the bind error | log
log.window_s | s | span of log lines that the counts were taken over | log
log.clues | words | clues found in the log's own words, by id | log
log.quotes | words | what matched, one for each of log.clues | log
symptom.clues | words | clues found in the symptom that a person told, by id | told
symptom.quotes | words | what matched, one for each of symptom.clues | told
symptom.words | words | words, pairs of words and names in the symptom, endings cut | told
symptom.signatures | words | log signatures whose line the person quotes in the symptom, by id | told
symptom.lines | words | what matched, one for each of symptom.signatures | told
command.clues | words | clues found in the launch command, by id | told
command.quotes | words | what matched, one for each of command.clues | told
command.checked_version | text | the version whose flags the launch command was held against | sglang
command.version_known | bool | that version was given, installed or reported; else it is the newest one | sglang
command.alone | bool | nothing but a launch command was given | sglang
command.errors | words | what would end the start, by rule or by kind and flag | sglang
command.errors_say | words | the same in words, one for each of command.errors | sglang
command.first_error | text | the first of them that SGLang would stop at, in words | sglang
command.refused | flags | how many uses of flags argparse would not take | sglang
command.notes | words | what does harm or is deprecated, by rule or by kind and flag | sglang
command.notes_say | words | the same in words, one for each of command.notes | sglang
request.problems | words | what is wrong with the request that a person gave, by id | told
request.says | words | the same in words, one for each of request.problems | told
request.endpoint | text | where the given request goes | told
request.judged | bool | the fields of its endpoint are known here | told
request.prompt_tokens | tokens | its prompt, counted or estimated by its letters | told
request.max_tokens | tokens | the output that it asks for at most | told
request.largest_id | token id | the largest of its input_ids | told
request.tools | bool | it brings tools | told
request.schema | bool | it asks for structured output | told
request.stream | bool | it asks for a stream | told
hardware.clues | words | clues found in the hardware that a person told, by id | told
hardware.quotes | words | what matched, one for each of hardware.clues | told
"""

VOCABULARY: dict[str, Reading] = {}
for _line in _TABLE.strip().splitlines():
    _name, _unit, _doc, _probes = (part.strip() for part in _line.split("|"))
    VOCABULARY[_name] = Reading(_name, _unit, _doc, tuple(p.strip() for p in _probes.split(",")))

SHARES = frozenset({"kv.usage", "kv.usage_mean", "cache.hit_ratio", "decode.cuda_graph_share"})
"""Ratios that texts say in per cent; the others (the memory fraction) are said as a flag takes them."""

PREFERENCE: dict[str, tuple[str, ...]] = {r.name: r.probes for r in VOCABULARY.values()}

PROBES = ("gpu", "host", "port", "process", "http", "sglang", "metrics", "log", "told")
