"""How the routes describe themselves that take a file, and those of their tasks (see `services.openapi`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from models.errors import InputError, StoppedError, TooLargeError, UnavailableError, UnprocessableError
from services.jobs.runner import AbandonedTaskError, LostTaskError
from services.openapi import ANY_CALL, BODY, Failure, Fragment, answer, failures, form_body
from services.service import UnknownModelError
from services.tasks import CanceledTaskError, UnfinishedTaskError, UnknownTaskError
from services.uploads import FileExpectedError, MalformedFormError

_UPLOAD: tuple[Failure, ...] = (*ANY_CALL, *BODY, MalformedFormError, FileExpectedError, UnknownModelError, UnprocessableError)
_TASK_ID: Fragment = {"name": "task_id", "in": "query", "required": True, "schema": {"type": "string", "minLength": 1}}


class TaskError(BaseModel):
    """Why a task failed."""

    code: str
    message: str


class TaskStatus(BaseModel):
    """What became of a task."""

    task_id: Annotated[str, Field(description="To ask for, fetch and cancel it with. Nobody can guess it.")]
    status: Literal["pending", "in_progress", "completed", "failed", "canceled"]
    progress: Annotated[float, Field(ge=0, le=1, description="Share of the work that is done.")]
    position: Annotated[int | None, Field(ge=1, description="Place in line while it is pending; 1 is next.")] = None
    created_at: datetime
    completed_at: Annotated[datetime | None, Field(description="When it was completed, failed or was cancelled.")]
    error: Annotated[TaskError | None, Field(description="Of a task that failed.")] = None


class FileOperations:
    """The descriptions of one kind of file call.

    Args:
        path: of the call; those of its tasks lie below.
        form: the fields, the file's included.
        file: the file's field.
        takes: media types of the file.
        gives: what the good answer holds, by media type.
        errors: what can be wrong with such a file, beside what can be wrong with any upload.
        headers: of the good answer.
    """

    def __init__(
        self,
        path: str,
        form: type[BaseModel],
        file: str,
        takes: Sequence[str],
        gives: Mapping[str, Any],
        errors: Sequence[Failure],
        headers: Mapping[str, Fragment],
    ) -> None:
        self._path, self._body = path, form_body(form, file, takes)
        self._done = answer("The file.", gives, {**_DISPOSITION, **headers})
        self._work = (*errors, TooLargeError, UnprocessableError, UnavailableError, StoppedError)
        self._upload = (*_UPLOAD, *errors)

    @property
    def call(self) -> Fragment:
        """Of the call that waits for its answer."""
        return {**self._body, "responses": {"200": self._done, **failures((*self._upload, StoppedError))}}

    @property
    def submit(self) -> Fragment:
        """Of the one that answers at once."""
        accepted = answer("Accepted.", {"application/json": TaskStatus}) | {"links": self._links()}
        return {**self._body, "responses": {"202": accepted, **failures(self._upload)}}

    @property
    def ask(self) -> Fragment:
        """Of the questions for a task's status, and of its cancel."""
        found = answer("The task.", {"application/json": TaskStatus})
        return {"parameters": [_TASK_ID], "responses": {"200": found, **failures((*ANY_CALL, InputError, UnknownTaskError))}}

    @property
    def fetch(self) -> Fragment:
        """Of the route that gives what a task made; a failed task's error is the answer."""
        ended: tuple[Failure, ...] = (CanceledTaskError, LostTaskError, AbandonedTaskError)
        kinds = (*ANY_CALL, InputError, UnknownTaskError, UnfinishedTaskError, *ended, *self._work)
        return {"parameters": [_TASK_ID], "responses": {"200": self._done, **failures(kinds)}}

    def _links(self) -> Fragment:
        """What the id is good for."""
        routes = {"status": "get", "get": "get", "cancel": "put"}
        parameters = {"task_id": "$response.body#/task_id"}
        return {
            name: {"operationRef": f"#/paths/{self._path.replace('/', '~1')}~1{name}/{verb}", "parameters": parameters}
            for name, verb in routes.items()
        }


_DISPOSITION: Fragment = {
    "Content-Disposition": {"required": True, "description": "What to call it.", "schema": {"type": "string"}}
}
