{{- define "keymount.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "keymount" .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-keymount" .Release.Name -}}
{{- end -}}
{{- end -}}

{{- define "keymount.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "keymount.fullname" .) -}}
{{- end -}}

{{- define "keymount.selector" -}}
app.kubernetes.io/name: keymount
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keymount.labels" -}}
{{ include "keymount.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "keymount.image" -}}
{{- with .Values.image -}}
{{- with .registry }}{{ . }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* kubelet's folder of our CSI socket: the one of the driver that we replace. */ -}}
{{- define "keymount.pluginDir" -}}
{{ .Values.kubeletRoot }}/plugins/csi-secrets-store
{{- end -}}

{{- /* Whether the tokens of pods come as secrets of the call. */ -}}
{{- define "keymount.tokenInSecrets" -}}
{{- $wanted := .Values.csiDriver.serviceAccountTokenInSecrets -}}
{{- if kindIs "invalid" $wanted -}}
{{- $wanted = semverCompare ">=1.35.0-0" .Capabilities.KubeVersion.Version -}}
{{- end -}}
{{- if and $wanted .Values.csiDriver.tokenRequests }}true{{ end -}}
{{- end -}}
