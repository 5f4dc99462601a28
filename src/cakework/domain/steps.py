"""Steps: the moments between two things that last, at which a crash must cost nothing.

Each is named ``<part>.<noun>.<what was done last>``. Code goes past one with
:func:`cakework.faults.step`; the tests end the process at every one of them.
"""

from enum import StrEnum


class Step(StrEnum):
    """Every step there is, in the order of what passes it."""

    REQUEST_RESERVED = "server.request.reserved"
    REQUEST_DONE = "server.request.done"
    REQUEST_KEPT = "server.request.kept"

    SERVER_VERSION_LOADED = "server.version.loaded"
    SERVER_VERSION_KEPT = "server.version.kept"
    SERVER_VERSION_PROMOTED = "server.version.promoted"
    SERVER_INVOCATION_ACCEPTED = "server.invocation.accepted"
    SERVER_INVOCATION_CLAIMED = "server.invocation.claimed"
    SERVER_INSTANCE_RESERVED = "server.instance.reserved"
    SERVER_INSTANCE_STARTED = "server.instance.started"
    SERVER_ATTEMPT_ANSWERED = "server.attempt.answered"
    SERVER_ATTEMPT_NOTED = "server.attempt.noted"
    SERVER_INSTANCE_ENDED = "server.instance.ended"
    SERVER_INVOCATION_SETTLED = "server.invocation.settled"

    SERVER_SCHEDULE_WRITTEN = "server.schedule.written"
    SERVER_SCHEDULE_FIRED = "server.schedule.fired"
    SERVER_EVENT_ACCEPTED = "server.event.accepted"
    SERVER_EVENT_FANNED = "server.event.fanned"

    BUILD_SPOOLED = "server.build.spooled"
    BUILD_RECORDED = "server.build.recorded"
    BUILD_ORDERED = "server.build.ordered"
    BUILD_ACCEPTED = "server.build.accepted"
    BUILD_CANCELLED = "server.build.cancelled"

    IMPORT_RECORDED = "server.import.recorded"
    IMPORT_REFUSED = "server.import.refused"

    IMAGE_DELETED = "server.image.deleted"

    VM_RECORDED = "server.vm.recorded"
    VM_RUN_BEGUN = "server.vm.run_begun"
    VM_ORDERED = "server.vm.ordered"
    VM_REFUSED = "server.vm.refused"
    VM_WANTED = "server.vm.wanted"
    VM_ENDED = "server.vm.ended"
    VM_VOLUME_FREED = "server.vm.volume_freed"

    FACTS_LINES_STORED = "server.facts.lines_stored"
    FACTS_STORED = "server.facts.stored"

    WEBHOOK_CLAIMED = "server.webhook.claimed"
    WEBHOOK_ANSWERED = "server.webhook.answered"

    NODE_BUILD_RECORDED = "node.build.recorded"
    NODE_BUILD_BEGUN = "node.build.begun"
    NODE_BUILD_WORKPLACE_MADE = "node.build.workplace_made"
    NODE_BUILD_CONTEXT_WRITTEN = "node.build.context_written"
    NODE_BUILD_LAYERS_BUILT = "node.build.layers_built"
    NODE_BUILD_EXPORTED = "node.build.exported"
    NODE_BUILD_ENDED = "node.build.ended"
    NODE_BUILD_TOLD = "node.build.told"
    NODE_BUILD_CANCELLED = "node.build.cancelled"

    NODE_BUILDER_LEASED = "node.builder.leased"
    NODE_BUILDER_FED = "node.builder.fed"
    NODE_BUILDER_IMAGE_TAKEN = "node.builder.image_taken"

    NODE_IMAGE_WRITTEN = "node.image.written"
    NODE_IMAGE_NAMED = "node.image.named"
    NODE_IMAGE_SET_ASIDE = "node.image.set_aside"

    NODE_IMPORT_CHECKED = "node.import.checked"
    NODE_IMPORT_RECORDED = "node.import.recorded"
    NODE_IMPORT_BEGUN = "node.import.begun"
    NODE_IMPORT_PULLED = "node.import.pulled"
    NODE_IMPORT_ENDED = "node.import.ended"
    NODE_IMPORT_TOLD = "node.import.told"

    NODE_MACHINE_FOLDER_MADE = "node.machine.folder_made"
    NODE_MACHINE_RECORDED = "node.machine.recorded"
    NODE_MACHINE_WIRED = "node.machine.wired"
    NODE_MACHINE_SPAWNED = "node.machine.spawned"
    NODE_MACHINE_PID_RECORDED = "node.machine.pid_recorded"
    NODE_MACHINE_RESTORED = "node.machine.restored"
    NODE_MACHINE_FORKED = "node.machine.forked"
    NODE_MACHINE_TAKEN = "node.machine.taken"
    NODE_MACHINE_ASSIGNED = "node.machine.assigned"
    NODE_MACHINE_RUN_SENT = "node.machine.run_sent"
    NODE_MACHINE_PROCESS_GONE = "node.machine.process_gone"
    NODE_MACHINE_CGROUP_GONE = "node.machine.cgroup_gone"
    NODE_MACHINE_DISKS_GONE = "node.machine.disks_gone"
    NODE_MACHINE_DISOWNED = "node.machine.disowned"

    NODE_VOLUME_MADE = "node.volume.made"
    NODE_VOLUME_NAMED = "node.volume.named"
    NODE_VOLUME_GIVEN = "node.volume.given"

    NODE_SNAPSHOT_READY = "node.snapshot.ready"
    NODE_SNAPSHOT_FROZEN = "node.snapshot.frozen"
    NODE_SNAPSHOT_SAVED = "node.snapshot.saved"
    NODE_SNAPSHOT_WRITTEN = "node.snapshot.written"
    NODE_SNAPSHOT_NAMED = "node.snapshot.named"
    NODE_SNAPSHOT_TOLD = "node.snapshot.told"
    NODE_SNAPSHOT_USED = "node.snapshot.used"
    NODE_SNAPSHOT_RESUMED = "node.snapshot.resumed"

    NODE_VM_STARTED = "node.vm.started"
    NODE_VM_STOP_SENT = "node.vm.stop_sent"
    NODE_VM_ENDED = "node.vm.ended"
    NODE_VM_END_RECORDED = "node.vm.end_recorded"
    NODE_VM_END_TOLD = "node.vm.end_told"

    NODE_LINES_CONFIRMED = "node.lines.confirmed"
