{{- define "cleversocks.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "cleversocks.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cleversocks.labels" -}}
{{ include "cleversocks.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "cleversocks.secret" -}}
{{ .Values.existingSecret | default (printf "%s-users" (include "cleversocks.name" .)) }}
{{- end }}

{{- define "cleversocks.config" -}}
# The configuration in the cluster. Kubernetes rolls the pods when it changes.

[[listener]]
address = {{ printf "%s:1080" .Values.listen | quote }}

[admin]
address = {{ printf "%s:9180" .Values.listen | quote }}

[auth]
users_file = "/run/secrets/cleversocks/users"

[acl]
block_private = true

[limits]
max_session_age = {{ .Values.maxSessionAge | quote }}

[drain]
delay = "{{ .Values.drain.delay }}s"
timeout = "{{ .Values.drain.timeout }}s"
{{- with .Values.config }}

{{ . }}
{{- end }}
{{- end }}
