"""Which node produced which tensor, by the identity of the fake tensor that holds the value."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from fxfeat.ir.node_meta import Storage, amend, measure, meta_of, same
from fxfeat.ir.tree import Steps, children, copy_tensors, tensors, walk
from fxfeat.trace.builder.graph import Effects, GraphWriter
from fxfeat.trace.builder.measure import LITERALS, measure_all, storage_of, version_of


class Provenance(GraphWriter):
    """Ties tensors to nodes.

    A real tensor (a parameter, a buffer, a constant) is replaced by its fake tensor whenever it enters a call, so
    nothing the model owns is ever computed on.
    """

    def holds(self, value: Any) -> bool:
        """Say whether a value is a tensor that the model held before it ran."""
        return isinstance(value, torch.Tensor) and id(value) in self._state

    @contextmanager
    def writes_noticed(self, effects: Effects, given: Any) -> Iterator[None]:
        """Notice what compiled code writes to the tensors that it is given."""
        held = [self.fake_of(tensor) for _, tensor in tensors(given)]
        before = [version_of(tensor) for tensor in held]
        yield
        changed = {storage_of(t) for t, old in zip(held, before, strict=True) if version_of(t) != old}
        effects.writes |= changed
        for storage in changed:
            self._versions.pop(storage, None)

    def all_written(self) -> frozenset[Storage]:
        """Return the memory that code was seen to write to."""
        known = map(meta_of, self.graph.nodes)
        return frozenset(self.written).union(*(held.writes - held.may_write for held in known))

    def writes_to(self, held: Iterable[torch.Tensor]) -> bool:
        """Say whether code was seen to write to any of some tensors of the model."""
        copies = [self._copies[id(tensor)] for tensor in held if id(tensor) in self._copies]
        return not self.all_written().isdisjoint(map(storage_of, copies))

    def fake_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the fake tensor for ``tensor``, which is itself if it is one."""
        if id(tensor) in self._nodes or id(tensor) in self._pending or id(tensor) in self._originals:
            return tensor
        if id(tensor) not in self._copies:
            made = self._adopt(tensor)
            self._copies[id(tensor)] = made
            self._originals[id(made)] = tensor
            self._alive += [tensor, made]
        return self._copies[id(tensor)]

    def _adopt(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._leaf_depth and self._made_here(tensor):
            return tensor
        over = self._copy_over_shared_memory(tensor)
        made = self.fake_tensors.copy(tensor) if over is None else over
        if is_functorch_wrapped_tensor(tensor):
            # What vmap hands to a function is another tensor over memory of the one that it was given.
            self._wrapping[storage_of(made)] = storage_of(_unwrapped(tensor))
        if self.there is not None and id(tensor) not in self.there:
            self.note_fresh(tensor)
        # Any tensor from outside outlives the call: in a list, in a global, in another object.
        if id(tensor) not in self.fresh:
            self.persistent.add(storage_of(made))
            if self._is_stranger(tensor):
                self.strangers.add(storage_of(made))
        return made

    def _is_stranger(self, tensor: torch.Tensor) -> bool:
        """Say whether a tensor is none of the model's: code may have made it just now, by ``torch.Tensor([1.0])``."""
        return self.fake_tensors.kind != "real" and id(tensor) not in self._state

    def _copy_over_shared_memory(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Let fake tensors of tensors over one memory share theirs: what is written to one is read from the other."""
        base = self.shared.get(storage_of(tensor))
        if base is None or base.dtype != tensor.dtype or tensor.layout != torch.strided:
            return None
        if id(base) not in self._bases:
            self._bases[id(base)] = self.fake_tensors.copy(base)
        return self._bases[id(base)].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _made_here(self, tensor: torch.Tensor) -> bool:
        """Say whether a tensor was computed from fake tensors by code that torch functions do not show."""
        if self.fake_tensors.kind == "meta":
            return tensor.is_meta and self.device.type != "meta" and id(tensor) not in self._state
        if self.fake_tensors.kind == "fake":
            return type(tensor).__name__ == "FakeTensor"
        if self.known is None:
            return False
        return not any(id(tensor) in held for held in (self.known, self._state, self.fresh))

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """Return the node that produced ``tensor``, writing the steps to it down if need be."""
        made = self.fake_of(tensor)
        if id(made) in self._nodes:
            return self._nodes[id(made)]
        if id(made) in self._pending:
            node, steps = self._pending.pop(id(made))
            return self.tie(made, self.follow(node, steps, made))
        return self.tie(made, self._state_node(self._originals.get(id(made), made), made))

    def _state_node(self, tensor: torch.Tensor, made: torch.Tensor) -> fx.Node:
        known = self._state.get(id(tensor))
        measured: dict[str, Any] = {"value": measure(made), "aliases": frozenset({storage_of(made)})}
        if known is not None:
            path, trained = known
            return self.add("get_attr", path, constant=not trained, **measured)
        name = f"_constant_{len(self.constants)}"
        self.constants[name] = tensor
        trouble = self._trouble(tensor)
        if id(tensor) not in self.fresh:
            return self.add("get_attr", name, constant=True, unwritable=trouble, **measured)
        # The model makes it anew at each call, so what it writes to it is gone by the next.
        kept = self.add("get_attr", name, constant=True, unwritable=trouble, value=measured["value"], counted=False)
        return self.add("call_function", torch.clone, (kept,), constant=True, counted=False, **measured)

    def _trouble(self, tensor: torch.Tensor) -> str | None:
        if self._made_here(tensor):
            return (
                "a tensor made out of fxfeat's sight, by nn.Parameter, by copy.deepcopy, in compiled or vectorized code"
            )
        if self.escapes:
            return f"a tensor that may have been computed outside torch, after {self.escapes[-1]}"
        return None

    def tie(self, tensor: torch.Tensor, node: fx.Node) -> fx.Node:
        """Say that ``tensor`` is what ``node`` produced."""
        self._nodes[id(tensor)] = node
        self._born.setdefault(id(tensor), meta_of(node).position)
        self._pending.pop(id(tensor), None)
        self._alive.append(tensor)
        self._look(node, tensor)
        return node

    def _look(self, node: fx.Node, value: Any) -> None:
        """Copy a value that somebody wants to see as it was when it was produced."""
        if meta_of(node).call_path in self.watched:
            self.seen.setdefault(meta_of(node).call_path, copy_tensors(value))

    def follow(self, node: fx.Node, steps: Steps, value: Any) -> fx.Node:
        """Write down the steps from ``node`` to something its result holds."""
        for index, (kind, key) in enumerate(steps):
            function = operator.getitem if kind == "item" else getattr
            last = index == len(steps) - 1
            known = self._measured(value) if last else {}
            node = self.add("call_function", function, (node, key), counted=False, **known)
        return node

    def _measured(self, value: Any) -> dict[str, Any]:
        if isinstance(value, torch.Tensor):
            with contextlib.suppress(NotImplementedError, RuntimeError):  # not every tensor has a storage
                # Code may exchange its memory: what is let go must not lend its identity to what is made later.
                self.keep(value.untyped_storage())
            return {"value": measure(value), "aliases": frozenset({storage_of(value)})}
        held = [tensor for _, tensor in tensors(value)]
        return {"value": measure_all(value), "aliases": frozenset(storage_of(tensor) for tensor in held)}

    def _own(self, tensor: torch.Tensor) -> None:
        """Note that a tensor came out of a call on fake tensors, and so is one."""
        if id(tensor) not in self._nodes and id(tensor) not in self._pending and id(tensor) not in self._copies:
            self._originals.setdefault(id(tensor), tensor)
            self._alive.append(tensor)

    def _register(self, result: Any, node: fx.Node) -> None:
        self._look(node, result)
        for steps, held in walk(result):
            if not steps and not isinstance(held, (torch.Tensor, *LITERALS)):
                self._objects[id(held)], self._contents[id(held)] = (node, steps), _contents(held)
                self.keep((held, [part for _, part in children(held)]))
            elif isinstance(held, torch.Tensor):
                self._nodes.pop(id(held), None)
                self._pending[id(held)] = (node, steps)
                self.keep(held)

    def remember(self, held: Any, module_call: int, steps: Steps) -> None:
        """Note that an object came out of a module call, so that a later call can be given it from there."""
        source, _ = self._objects.get(id(held), (None, ()))
        if isinstance(source, fx.Node) or (source is not None and self._contents[id(held)] == _contents(held)):
            return
        if source is not None:
            # Code has changed it since: what the earlier call returned is a feature of its own.
            self.module_calls[source] = dataclasses.replace(self.module_calls[source], mutated=True)
        self._objects[id(held)], self._contents[id(held)] = (module_call, steps), _contents(held)
        self.keep((held, [part for _, part in children(held)]))

    def is_as_returned(self, value: Any) -> bool:
        """Say whether an object that a call returned holds what it held then."""
        return id(value) not in self._contents or self._contents[id(value)] == _contents(value)

    def passed(self, tensor: torch.Tensor, start: int) -> torch.Tensor:
        """Give a tensor from before position ``start``, though written to since, an identity and a node of its own."""
        node = self.node_of(tensor)
        made = self.fake_of(tensor)
        if self._born[id(made)] >= start:
            return made
        alias = self.fake_tensors.alias(made)
        alias.__dict__.update(tensor.__dict__)  # what code has put on it
        passed = self.add("call_function", same, (node,), counted=False, passed=True, **self._measured(alias))
        self.tie(alias, passed)
        return alias

    def _separate(self, value: Any, effects: Effects) -> Any:
        """Give a tensor that a call handed back untouched an identity of its own.

        ``x.to(dtype)`` returns ``x`` itself where nothing has to be done. On another input it returns a new tensor,
        so what is later done with ``x`` must not be tied to ``x.to(dtype)``.
        """
        if not isinstance(value, torch.Tensor):
            return value
        made = self.fake_of(value)
        known = id(made) in self._nodes or id(made) in self._pending or made is not value
        if not known or storage_of(made) in effects.writes:
            return made
        alias = self.fake_tensors.alias(made)
        self._handed_back[id(alias)] = self._handed_back.get(id(made), made)
        return alias

    def _adopt_tensor(self, tensor: torch.Tensor, node: fx.Node, effects: Effects) -> torch.Tensor:
        made = self._separate(tensor, effects)
        if id(made) in self._nodes:
            amend(node, same_as=self._nodes[id(made)])
        self.tie(made, node)
        return made


def _unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def _contents(value: Any) -> list[tuple[Any, int]]:
    """Tell by identity what an object holds directly."""
    return [(step, id(held)) for step, held in children(value)]
