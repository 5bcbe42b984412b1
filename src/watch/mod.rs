//! Completion signals of a job: the files that users touch, deadlines, the end of the pod.
