# SPDX-License-Identifier: Apache-2.0
"""Studies on a user's own scans: what is hidden, at which ratio, with several seeds, measured by a task."""

from custom.workflows.study.study import Study

__all__ = ["Study"]
