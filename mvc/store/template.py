"""The text of a new mvc.toml: every key with its default and what it means."""

TEMPLATE = """\
# What this model repo trains and how. `mvc train` reads it before every batch.

[base]  # the frozen model under the adapter; fixed for the life of a line
model = ""  # a hub id, a local folder, a GGUF file, or package:NAME
revision = ""  # hub models: the commit that was resolved at init
digest = ""  # of the base's weights; written by `mvc init`, checked at every load
quantization = ""  # "nf4": in 4 bits while training (QLoRA); needs the extra mvc-model[qlora]

[lora]  # the adapter's shape; all but dropout is fixed for the life of a line
r = 16  # rank: how much the adapter can hold
alpha = 32  # the adapter's weight is alpha / r
dropout = 0.0  # share of the adapter's inputs dropped while training
target_modules = "all-linear"  # or a list of module names, as PEFT takes it
modules_to_save = []  # modules trained whole beside the adapter, for example ["lm_head"]
use_dora = false  # also learn the weights' magnitudes (slower)
use_rslora = false  # scale by alpha / sqrt(r), for high ranks

[train]  # a change takes effect in the next batch
learning_rate = 2e-4  # the rate after the warm-up
schedule = "constant_with_warmup"  # how the rate moves; linear, cosine... need horizon_steps
schedule_scope = "lifetime"  # over all batches together; "batch" starts it again in each one
schedule_args = {}  # what else the schedule takes, for example {min_lr_rate = 0.1}
warmup_steps = 20  # optimizer steps from rate 0 to the full rate
horizon_steps = 0  # optimizer steps until a schedule that ends has ended
optimizer = "adamw_torch_fused"  # a name that transformers knows
optimizer_args = ""  # what else the optimizer takes, for example "momentum=0.9"
weight_decay = 0.0  # pull of the adapter's weights towards 0
max_grad_norm = 1.0  # longer gradients are cut to this length; 0 cuts none
micro_batch_size = 4  # rows in the device's memory at a time
gradient_accumulation_steps = 1  # micro-batches in one optimizer step
passes = 1  # times each row is trained in its batch
max_length = 1024  # tokens in a row; longer ones are split or cut, and counted
packing = true  # fill rows with several records, for speed
shuffle = true  # train the rows in a random order drawn from the seed
assistant_only = false  # chats: learn the assistant's words only
precision = "auto"  # bf16 where the device has it; or "fp32", "bf16"
gradient_checkpointing = false  # less memory for more time
seed = 42  # of the adapter's first weights, the order of rows and dropout
logging_steps = 1  # optimizer steps between two points of the loss curve
checkpoint_steps = 50  # optimizer steps between recovery points in a batch; 0 writes none

[snapshot]  # a day's permanent rollback point
at = "03:00"  # when: HH:MM, or a cron expression of five fields
zone = ""  # of all dates, for example "Europe/Berlin"; empty is this machine's
push = ""  # the remote that `mvc watch` pushes to after it
gc = false  # `mvc watch` applies [keep] after it

[watch]  # what `mvc watch INBOX` makes of the files that arrive
order = "completed"  # in the order they were completed; or "name"
settle_seconds = 5.0  # rest that proves a file whole that was not renamed into place
min_steps = 0  # smaller files are joined to a batch of so many optimizer steps
max_steps = 0  # larger files are split into batches of so many
join_seconds = 3600.0  # how long a smaller file waits for others at most
explode = 2.0  # a loss that ends above this multiple of where it began is undone; 0: never
min_free_gb = 5.0  # below this it pauses (1e9 bytes)

[gate]  # a held-out file that each trained batch is measured on
data = ""  # the file; empty: no gate
metric = "loss"  # or "perplexity"
bound = 0.1  # a batch that worsens the metric by more is refused

[launch]  # the processes that `mvc train` trains a batch with
nproc = 1  # on each machine; `--nproc` is for one command
nnodes = 1  # machines; each runs the same `mvc train`, all but the first with MVC_NODE_RANK=1, 2...
rdzv_endpoint = ""  # where they meet: "HOST:PORT" of the first machine, which has the repo
fsdp = ""  # an accelerate config file for a base that one device does not hold; empty: DDP

[keep]  # what `mvc gc` keeps whole; without any rule here or in [thin] it deletes nothing
last = 0  # the newest commits
hourly = 0  # the newest commit of each of so many hours
daily = 0  # of each of so many days
weekly = 0  # of each of so many weeks
monthly = 0  # of each of so many months
yearly = 0  # of each of so many years
within = ""  # all of a time back from the newest, for example "7d12h"
snapshots = true  # false: snapshots may give up their moments, never their adapter
tags = ["*"]  # tags whose commits keep their whole state; the others keep their adapter
trash = 7  # days that deleted objects can still be brought back
undo = 10  # operations that `mvc undo` must be able to take back

[thin]  # what keeps its adapter (a third of the bytes) and gives up its moments
last = 0  # as in [keep]
hourly = 0  # as in [keep]
daily = 0  # as in [keep]
weekly = 0  # as in [keep]
monthly = 0  # as in [keep]
yearly = 0  # as in [keep]
within = ""  # as in [keep]
"""
